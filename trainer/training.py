"""The task `train`, from restore to export, in one process."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from conf import exit_codes
from conf.errors import BadSpec
from conf.schema import KerasFormat, LooksSpec, Verb
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer import actions, blow_ups, pretrained
from trainer.benchmark import benchmark
from trainer.checkpoint_files import Broken
from trainer.checkpoint_writer import CheckpointWriter
from trainer.checkpoints import list_checkpoints, load, newest_whole
from trainer.curves import Curves
from trainer.evaluation import report
from trainer.export import saved_model
from trainer.find_lr import find_lr
from trainer.hparams import HParams
from trainer.looks import Looks
from trainer.loop import Every, Progress, run_loop
from trainer.models.constants import refresh
from trainer.parts import Batch
from trainer.profile import Profile
from trainer.retention import Retention
from trainer.session import Session
from trainer.step import compile_step
from trainer.xla import SLOW_ON_CPU

log = logging.getLogger(__name__)


class Disagreement(Exception):
    """The workers do not stand at the same step."""


def train(session: Session, run: RunDir, attempt: int) -> int:
    """Restore, train, evaluate, export. Returns an exit code: DONE, or STOPPED after saving."""
    progress = Progress(session.lengths.steps, session.lengths.steps_per_epoch, ends=session.phases.ends)
    restore(session, run, progress)
    progress.left_out |= blow_ups.left_out(run)
    session.ledger.began(progress.step)
    if session.step.xla and not session.topology.on_gpu and session.topology.is_chief:
        session.channel.say("event", event="xla_on_cpu", details={"words": [SLOW_ON_CPU]})
    results = hparams(session, run)
    if results:
        results.begin(progress.step)
    split = session.validation_split()
    refuse_blind_judges(session, split)
    train_curves = actions.open_curves(session, run, "train", progress.step)
    validation_curves = actions.open_curves(session, run, "validation", progress.step) if split else None
    writer = open_writer(session, run, attempt) if session.topology.is_chief else None
    with contextlib.ExitStack() as stack:
        if writer:
            stack.callback(session.ledger.spending("checkpoint")(writer.close))
        for curves in (validation_curves, train_curves):
            if curves:
                stack.callback(curves.close)
        profile = profile_of(session, run)
        if profile:
            progress.ends = (*progress.ends, *profile.ends())
            stack.callback(profile.close)
        try:
            _run(session, progress, split, train_curves, validation_curves, writer, profile)
        except blow_ups.BlowUp as found:
            raise after_blow_up(session, run, progress, found, writer) from found
    if not progress.is_over:
        session.channel.say("result", step=progress.step, metrics=progress.last_metrics, spent=session.ledger.told())
        return exit_codes.STOPPED
    step = take_best(session, run, progress.step)
    finish(session, run, step, progress.last_metrics, progress.finished)
    return exit_codes.DONE


def after_blow_up(
    session: Session, run: RunDir, progress: Progress, found: blow_ups.BlowUp, writer: CheckpointWriter | None
) -> Exception:
    """What to raise when the last checkpoint is saved and what happened is written down. Every worker calls it."""
    session.channel.say("progress", phase="saving", step=progress.step, steps=progress.steps)
    if writer:
        writer.wait()
    outcome = blow_ups.settle(session, run, found, progress.left_out)
    check_agreement(session, progress.step)  # the others end when the chief has come here, and not before
    return outcome


def refuse_blind_judges(session: Session, split: str | None) -> None:
    """Raise BadSpec where early stopping or a plateau would wait for evaluations that never come."""
    judges = {"trainer.early_stopping": session.judges.stopping, "trainer.plateau": session.judges.plateau}
    for key, spec in judges.items():
        if split is None and spec is not None:
            law = "the data has no validation split to judge by"
            cure = f"data with a validation split, or {key}.patience=null"
            raise BadSpec.of(f"{key}.metric", spec.metric, law, cure)


def open_writer(session: Session, run: RunDir, attempt: int) -> CheckpointWriter:
    """The chief's writer of checkpoints, which tells of each that is there for good."""

    def tell(step: int) -> None:
        details = {"step": step, "seconds": round(writer.last_save_s, 3)}
        session.channel.say("event", event="checkpoint_saved", details=details)

    writer = CheckpointWriter(run, attempt, Retention.of(session.job.trainer), tell)
    return writer


def restore(session: Session, run: RunDir, progress: Progress | None) -> int:
    """Take up the newest whole checkpoint, or else the pretrained weights; the step that the weights belong to."""
    found = newest_whole(run)
    step = 0
    if found is not None:
        if found.state["data"] != session.manifest.digest:
            law = f"the checkpoint of step {found.step} was trained on other data than what is prepared here now"
            raise BadSpec.of("data.path", session.manifest.url, law, "give the data it began with, or another run_id")
        session.resume(found.state)
        session.state.restore(found.tensors, f"step {found.step}")
        step = found.step
        if progress is not None:
            progress.resume(found.state["progress"])
            progress.finished = session.judges.stopped
        session.channel.say("event", event="restored", details={"step": step, "broken": found.broken})
    else:
        refuse_broken(run)
        pretrained.load(session.model, session.job.trainer.model, session.channel)
        if session.averages:
            session.averages.begin()
    check_agreement(session, step)
    return step


def refuse_broken(run: RunDir) -> None:
    """Raise BadSpec where there are checkpoints but none is whole: to begin anew would lose what they hold."""
    broken = [status for status in list_checkpoints(run, verify=True) if status.problem]
    if broken:
        law = f"none of its {len(broken)} checkpoints is whole: {broken[-1].problem}"
        cure = f"restore {run.url}/{names.CHECKPOINTS} from a copy, or remove it to begin anew"
        raise BadSpec.of("run_id", run.run_id, law, cure)


def check_agreement(session: Session, step: int) -> None:
    """All workers must have restored the same step; Disagreement says that they do not see the same files."""
    replicas = session.strategy.num_replicas_in_sync
    if session.topology.num_workers == 1:
        return

    own = tf.constant([float(step), float(step) ** 2], tf.float64)

    @tf.function(autograph=False)
    def sums() -> tf.Tensor:
        return session.strategy.reduce(
            tf.distribute.ReduceOp.SUM, session.strategy.run(lambda: tf.identity(own)), axis=None
        )

    total, squares = sums().numpy()
    if total != step * replicas or squares != float(step) ** 2 * replicas:
        raise Disagreement(
            f"worker {session.topology.rank} restored step {step}, another worker a different one: "
            "storage.root must be a folder that all hosts share, or a bucket"
        )


def take_best(session: Session, run: RunDir, step: int) -> int:
    """At the end of a training, the weights of its best evaluation where the job asks for them; their step.

    They come from that step's checkpoint. Where it is broken, the last weights stay, and an event says so.
    """
    best = session.judges.patience.best_step
    if not session.judges.restores_best or best is None or best == step:
        return step
    check_agreement(session, step)  # the chief comes here when all is saved
    try:
        tensors, _ = load(run, best)
    except Broken as error:
        session.channel.say("event", event="best_is_broken", details={"step": best, "reason": str(error)})
        return step
    session.state.take_weights(tensors)
    session.channel.say("event", event="best_restored", details={"step": best})
    return best


def finish(session: Session, run: RunDir, step: int, metrics: dict[str, float], reason: str | None = None) -> None:
    """The report of the final split and the export, as the job asks for them. `reason` says why it ended early."""
    trainer = session.job.trainer
    split = session.final_split()
    if trainer.evaluate_at_end and split:
        with session.ledger.spending("evaluation"):
            metrics = metrics | evaluate(session, run, step, split)
    if results := hparams(session, run):
        results.end(step, metrics)
    if trainer.export_at_end and session.topology.is_chief:
        export(session, run, split or "train")
    session.channel.say("result", step=step, metrics=metrics, reason=reason, spent=session.ledger.told())


def profile_of(session: Session, run: RunDir) -> Profile | None:
    """The trace that the job asks for. All workers end their calls at the same steps; the chief traces them."""
    steps = session.job.trainer.profile
    if steps is None:
        return None
    first, last = steps
    return Profile(first, last, run if session.topology.is_chief else None, session.channel)


def hparams(session: Session, run: RunDir) -> HParams | None:
    """The chief's writer of hyperparameters and results, where the job asks for them."""
    is_wanted = session.job.trainer.tensorboard.hparams and session.topology.is_chief
    return HParams(session.job, run) if is_wanted else None


def evaluate(session: Session, run: RunDir, step: int, split: str) -> dict[str, float]:
    """Measure `split` and write the report; every worker takes part."""
    counts = session.measure(split)
    if session.topology.is_chief:
        skipped = session.manifest.splits[split].num_examples - counts.num_examples
        run.write_json(names.METRICS, report.metrics(split, step, session.manifest.classes, counts, skipped))
    found = {f"{split}_accuracy": counts.accuracy, f"{split}_loss": counts.loss}
    session.channel.say(
        "event", event="evaluated", details={"split": split, "num_examples": counts.num_examples, **found}
    )
    return found


def export(session: Session, run: RunDir, split: str) -> None:
    """Write the weights at hand as a SavedModel; the chief alone."""
    session.channel.say("progress", phase="exporting")
    with session.averaged():
        weights = [_host_value(variable) for variable in session.model.weights]
    keras.mixed_precision.set_global_policy("float32")
    model = session.new_model()
    model.set_weights(weights)
    refresh(model)
    folder = run.local(names.SAVED_MODEL)
    images = session.examples(split)
    with session.averaged():
        expected = session.model(images, training=False)
    expected = tf.nn.softmax(tf.cast(expected, tf.float32)).numpy()
    tolerance = saved_model.TOLERANCES[session.job.trainer.precision]
    difference = saved_model.export(model, session.manifest.classes, folder, images, expected, tolerance)
    run.publish(names.SAVED_MODEL)
    session.channel.say("event", event="exported", details={"format": "saved_model", "largest_difference": difference})


def keras_file(session: Session, run: RunDir) -> None:
    """Write the weights at hand in the Keras format that the job asks for; the chief alone."""
    kind = session.job.checkpoints.export
    if kind is None:
        raise BadSpec.of("checkpoints.export", None, "there is nothing to export", "checkpoints.export=keras")
    name = names.KERAS_FILES[kind.name]
    path = run.local(name)
    with session.averaged():
        if kind is KerasFormat.keras:
            session.model.save(path)
        else:
            session.model.save_weights(path)
    run.publish(name)
    session.channel.say("event", event="exported", details={"format": kind.name})


def run_task(session: Session, run: RunDir, attempt: int) -> int:
    """What the job's verb asks of a worker."""
    verb = session.job.job
    if verb is Verb.train:
        return train(session, run, attempt)
    if verb is Verb.benchmark:
        return benchmark(session, run)
    if verb is Verb.find_lr:
        return find_lr(session, run)
    progress = Progress(session.lengths.steps, session.lengths.steps_per_epoch)
    step = restore(session, run, progress)
    if progress.is_over:
        step = take_best(session, run, step)
    if verb is Verb.evaluate:
        found = evaluate(session, run, step, session.final_split() or "train")
        session.channel.say("result", step=step, metrics=found)
    if verb is Verb.export and session.topology.is_chief:
        export(session, run, session.final_split() or "train")
        session.channel.say("result", step=step, metrics={})
    if verb is Verb.checkpoints and session.topology.is_chief:
        keras_file(session, run)
        session.channel.say("result", step=step, metrics={})
    return exit_codes.DONE


def _run(
    session: Session,
    progress: Progress,
    split: str | None,
    train_curves: Curves | None,
    validation_curves: Curves | None,
    writer: CheckpointWriter | None,
    profile: Profile | None = None,
) -> None:
    evaluation = actions.Evaluation(session, split, validation_curves) if split else None
    saving = actions.Saving(session, writer, filter(None, (train_curves, validation_curves)))
    due = actions.every(session, actions.TrainingCurves(session, train_curves), evaluation, saving)
    if train_curves and session.job.trainer.tensorboard != LooksSpec():
        due.insert(0, Every(session.job.trainer.log_every_steps, Looks(session, train_curves)))
    run = compile_step(session.step)

    def run_steps(batches: Iterator[Batch], num_steps: int, stop: bool) -> tf.Tensor:
        nonlocal run
        # Not before its first step: a checkpoint at the change is still of the phase that ended.
        if (phase := session.phases.at(progress.step)) != session.phases.number:
            session.change_phase(phase)
            run = compile_step(session.step)
            session.channel.say("event", event="phase", details={"step": progress.step} | session.phases.details())
            # The step is traced anew, which takes as long as at the start: no silence of a training in its rhythm.
            session.channel.say("progress", phase="compiling", step=progress.step, steps=progress.steps)
        totals = run(batches, num_steps, stop)
        if blown := session.step.blown:
            raise blow_ups.BlowUp(progress.step + blown.number + 1, blown)
        # After every loop, not just before a checkpoint: a run that stops and saves between two checkpoints must leave
        # the same bits as one that goes on, and an average in between moves the last of them.
        session.average_batch_norm()
        return totals

    if not progress.is_over:
        run_loop(
            profile.around(run_steps, progress) if profile else run_steps,
            session.training_batches(progress.step),
            progress,
            session.job.trainer.steps_per_loop,
            due,
            lambda: session.channel.stop_requested,
            actions.after_loop(session, progress),
        )
    if progress.stopping:
        session.channel.say("progress", phase="saving", step=progress.step, steps=progress.steps)
        saving(progress)


def _host_value(variable: Any) -> Any:
    copies = getattr(variable.value, "values", None)
    return (copies[0] if isinstance(copies, tuple) else variable.value).numpy()
