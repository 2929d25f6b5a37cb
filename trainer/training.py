"""The task `train`, from restore to export, in one process."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from conf import exit_codes, promises
from conf.errors import BadSpec
from conf.schema import LooksSpec, Verb
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer import actions, blow_ups
from trainer.benchmark import benchmark
from trainer.checkpoint_writer import CheckpointWriter
from trainer.curves import Curves
from trainer.evaluation import report
from trainer.exporting import export, keras_file
from trainer.find_lr import find_lr
from trainer.hparams import HParams
from trainer.looks import Looks
from trainer.loop import Every, Progress, run_loop
from trainer.parts import Batch
from trainer.profile import Profile
from trainer.restoring import check_agreement, restore, take_best
from trainer.retention import Retention
from trainer.session import Session
from trainer.step import compile_step


def train(session: Session, run: RunDir, attempt: int) -> int:
    """Restore, train, evaluate, export. Returns an exit code: DONE, or STOPPED after saving."""
    progress = Progress(session.lengths.steps, session.lengths.steps_per_epoch, ends=session.phases.ends)
    restore(session, run, progress)
    progress.left_out |= blow_ups.left_out(run)
    session.ledger.began(progress.step)
    if session.topology.is_chief:
        for event, words in promises.unkept(session.job.trainer, session.topology.on_gpu).items():
            session.channel.say("event", event=event, details={"words": [words]})
    results = hparams(session, run)
    if results:
        results.begin(progress.step)
    split = session.validation_split()
    refuse_blind_judges(session, split)
    train_curves = actions.open_curves(session, run, "train", progress.step)
    # An evaluation that is due is drawn anew: who died after making up for it has drawn it already.
    from_step = progress.step - progress.evaluation_is_due
    validation_curves = actions.open_curves(session, run, "validation", from_step) if split else None
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
    if not progress.is_over or progress.evaluation_is_due:
        session.channel.say("result", step=progress.step, metrics=progress.last_metrics, spent=session.ledger.told())
        return exit_codes.STOPPED
    step, metrics = take_best(session, run, progress.step, progress.last_metrics)
    finish(session, run, step, metrics, progress.finished)
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
    writer.reserve(session.state.variables())
    return writer


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
    length = session.lengths.steps
    if first >= length:
        law, cure = f"the training is {length} steps long", f"trainer.profile=[{max(length - 10, 0)},{length}]"
        raise BadSpec.of("trainer.profile", steps, law, cure)
    return Profile(first, last, run if session.topology.is_chief else None, session.channel)


def hparams(session: Session, run: RunDir) -> HParams | None:
    """The chief's writer of hyperparameters and results, where the job asks for them."""
    is_wanted = session.job.trainer.tensorboard.hparams and session.topology.is_chief
    return HParams(session.job, run) if is_wanted else None


def evaluate(session: Session, run: RunDir, step: int, split: str) -> dict[str, float]:
    """Measure `split` and write the report; every worker takes part."""
    session.channel.say("progress", phase="evaluating", done=0)  # first: what ends it unheard is blamed on this
    counts = session.measure(split)
    if session.topology.is_chief:
        skipped = session.manifest.splits[split].num_examples - counts.num_examples
        run.write_json(names.METRICS, report.metrics(split, step, session.manifest.classes, counts, skipped))
    found = {f"{split}_{name}": score for name, score in counts.scores.items()}
    session.channel.say(
        "event", event="evaluated", details={"split": split, "num_examples": counts.num_examples, **found}
    )
    return found


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
    step = restore(session, run, progress, must_exist=True)
    if progress.evaluation_is_due and (split := session.validation_split()):
        actions.catch_up(session, split, progress)
    if progress.is_over:
        step, _ = take_best(session, run, step, {})
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
        session.step.usual = progress.usual
        totals = run(batches, num_steps, stop)
        progress.usual = session.step.usual
        if blown := session.step.blown:
            raise blow_ups.BlowUp(progress.step + blown.number + 1, blown)
        # After every loop, not just before a checkpoint: a run that stops and saves between two checkpoints must leave
        # the same bits as one that goes on, and an average in between moves the last of them.
        session.average_batch_norm()
        return totals

    if progress.evaluation_is_due:
        for late in (action.act for action in due if isinstance(action.act, actions.Evaluation | actions.Judging)):
            late(progress)
        if writer and not progress.evaluation_is_due:
            writer.remember(progress.step, progress.last_metrics)
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
