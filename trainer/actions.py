"""What happens between calls of the compiled loop: progress, curves, evaluations, checkpoints."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from conf.files import dump_job
from conf.schema import BadRecord
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer.budget import TrainingBudget
from trainer.checkpoint_writer import CheckpointWriter
from trainer.curves import Curves
from trainer.evaluation.evaluator import Interrupted
from trainer.far_events import FarEvents
from trainer.loop import Every, Progress, Window
from trainer.parameter_groups import MAIN, Optimizers
from trainer.phases import AnyOptimizer
from trainer.provenance import versions
from trainer.session import Session

log = logging.getLogger(__name__)


class Speed:
    """Examples a second and seconds a step, over the last few calls of the compiled loop."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        self._step_s: float | None = None

    def note(self, progress: Progress) -> None:
        """Take in the last call."""
        now = progress.loop_s / progress.loop_steps
        self._step_s = now if self._step_s is None else (1 - self.WEIGHT) * self._step_s + self.WEIGHT * now

    @property
    def step_s(self) -> float:
        """Seconds a step."""
        return self._step_s or 0.0


class ProgressReport:
    """Says after every call of the compiled loop how far the training is. The heartbeat of a worker."""

    def __init__(self, session: Session):
        self._session, self._speed, self._first = session, Speed(), True
        self._own_s = 0.0  # that others had to wait for: until own gradients were there, and saying so
        self._phase = session.phases.number

    def __call__(self, progress: Progress) -> None:
        """Say where the training stands."""
        pace = self._session.step.pace
        own_s = pace.own_s if self._session.step.clock.runs else None
        self._session.ledger.trained(progress.step, progress.loop_s, pace.waited_s, own_s)
        self._own_s += pace.own_s
        if self._first:
            # The first call traces and compiles: it says nothing about the speed.
            self._first = False
            self._session.channel.say("event", event="first_step", details={"time": time.time(), "step": progress.step})
        elif self._session.phases.number == self._phase:
            self._speed.note(progress)
        self._phase = self._session.phases.number  # after a change the step is compiled anew
        more = {"spent": self._session.ledger.told()} if self._session.topology.is_chief else {}
        batch, step_s, begun = self._session.shape.global_batch_size, self._speed.step_s, time.perf_counter()
        self._session.channel.say(
            "progress",
            phase="training",
            step=progress.step,
            steps=progress.steps,
            epoch=progress.epoch,
            epochs=progress.steps / progress.steps_per_epoch,
            loss=progress.window.mean_loss,
            accuracy=progress.window.accuracy,
            examples_per_s=batch / step_s if step_s else None,
            eta_s=(progress.steps - progress.step) * step_s if step_s else None,
            pace={
                "own_s": self._own_s,
                "stops": self._session.channel.stop_requested,
                "loop_s": round(step_s * self._session.job.trainer.steps_per_loop, 4),  # of a call of the compiled loop
            },
            **more,
            **phase_told(self._session),
            **progress.last_metrics,
        )
        self._own_s += time.perf_counter() - begun


def phase_told(session: Session) -> dict[str, int]:
    """Which phase of how many, where there are several."""
    count = len(session.phases.specs)
    return {"training_phase": session.phases.number + 1, "training_phases": count} if count > 1 else {}


class TrainingCurves:
    """Draws the training: one point each `log_every_steps`."""

    def __init__(self, session: Session, curves: Curves | None):
        self._session, self._curves = session, curves
        self._since = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Draw the window and begin a new one."""
        window, seconds = progress.window, time.perf_counter() - self._since
        if self._curves and window.steps:
            step_s = seconds / window.steps
            values = {
                "loss": window.mean_loss,
                "accuracy": window.accuracy,
                **rates_of(self._session.phases.optimizer),
                "examples_per_s": window.examples / seconds,
                "step_time_s": step_s,
                "epoch": progress.epoch,
            }
            if skips(self._session):
                values["skipped_examples"] = self._session.num_skipped(progress)
            self._curves.scalars(progress.step, values)
        progress.skipped += self._session.num_skipped(progress)
        progress.window = Window()
        self._since = time.perf_counter()


def after_loop(session: Session, progress: Progress) -> Callable[[Progress], None]:
    """What every call of the compiled loop is followed by, of a training that begins at `progress`."""
    report = ProgressReport(session)
    if not skips(session):
        return report
    budget = TrainingBudget(session.manifest, session.job.data, session.num_skipped, progress)

    def both(progress: Progress) -> None:
        report(progress)
        budget(progress)

    return both


def skips(session: Session) -> bool:
    """Whether corrupt records are left out of this training instead of ending it."""
    return session.job.data.on_corrupt is BadRecord.skip


def rates_of(optimizer: AnyOptimizer) -> dict[str, float]:
    """The learning rate of the next step, and those of groups with optimizers of their own, as curves are named."""
    if not isinstance(optimizer, Optimizers):
        rate = optimizer.learning_rate  # a schedule's, or a variable's that every replica has a copy of
        return {"learning_rate": float(getattr(rate, "value", rate).numpy())}
    rates = optimizer.rates
    first = next(iter(rates.values()))
    others = {f"learning_rate_{group}": rate for group, rate in rates.items() if group != MAIN}
    return {"learning_rate": rates.get(MAIN, first)} | others


class Evaluation:
    """Measures the validation split. Every worker takes part; the chief draws.

    It may take longer than a stop has: then it is left to whoever goes on from the checkpoint, before anything else.
    """

    def __init__(self, session: Session, split: str, curves: Curves | None):
        self._session, self._split, self._curves = session, split, curves

    def __call__(self, progress: Progress) -> None:
        """Measure, draw, tell."""
        progress.evaluation_is_due = True
        if progress.stopping:
            return
        self._session.channel.say("progress", phase="evaluating", done=0)
        begun = time.perf_counter()
        with self._session.ledger.spending("evaluation"):
            try:
                counts = self._session.measure(self._split, stops=True)
            except Interrupted:
                progress.stopping = True
                return
        progress.evaluation_is_due = False
        seconds = time.perf_counter() - begun
        skipped = self._session.manifest.splits[self._split].num_examples - counts.num_examples
        progress.last_metrics = {f"validation_{name}": score for name, score in counts.scores.items()}
        steps = -(-counts.num_examples // self._session.eval_shape.global_batch_size)
        if self._curves:
            values = {
                **counts.scores,
                **rates_of(self._session.phases.optimizer),
                "examples_per_s": counts.num_examples / seconds,
                "step_time_s": seconds / max(steps, 1),
                "epoch": progress.epoch,
            }
            if skips(self._session):
                values["skipped_examples"] = skipped
            self._curves.scalars(progress.step, values)
        details = {"split": self._split, "step": progress.step, **counts.scores}
        details |= {"num_examples": counts.num_examples, "skipped_examples": skipped}
        self._session.channel.say("event", event="evaluated", details=details)


class Judging:
    """Lets the judges look at each evaluation, and does what they decide. Every worker decides the same."""

    def __init__(self, session: Session, log_points: Callable[[Progress], None], saving: Callable[[Progress], None]):
        self._session, self._log_points, self._saving = session, log_points, saving

    def __call__(self, progress: Progress) -> None:
        """Lower the rate, keep the best, or end the training."""
        if progress.evaluation_is_due:
            return
        session, judges = self._session, self._session.judges
        is_last = session.phases.number == len(session.phases.specs) - 1
        found = judges.judge(progress.last_metrics, progress.step, is_last)
        if found.lowered:
            session.phases.set_factor(judges.rate.factor)
            details = {"step": progress.step, "factor": judges.rate.factor}
            session.channel.say("event", event="plateau", details=details)
        if found.stopped:
            progress.finished = found.stopped
            self._log_points(progress)
            why = {"step": progress.step, "reason": found.stopped}
            session.channel.say("event", event="stopped_early", details=why)
        if found.is_best and judges.restores_best:
            self._saving(progress)


def catch_up(session: Session, split: str, progress: Progress) -> None:
    """The evaluation that a stop has left to do, and what follows from it, where nothing is trained or drawn."""
    Evaluation(session, split, None)(progress)
    Judging(session, lambda _: None, lambda _: None)(progress)


class Saving:
    """Takes a checkpoint: BatchNorm averaged by all workers, then the chief's snapshot, written in the background."""

    def __init__(self, session: Session, writer: CheckpointWriter | None, curves: Iterable[Curves]):
        self._session, self._writer, self._curves = session, writer, list(curves)
        self._saved_step: int | None = None

    def __call__(self, progress: Progress) -> None:
        """Take a snapshot of the step at hand, unless there is one."""
        if self._saved_step == progress.step:
            return
        with self._session.ledger.spending("checkpoint"):
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        self._session.average_batch_norm()
        self._saved_step = progress.step
        if self._writer is None:
            return
        for curves in self._curves:
            curves.flush()
        state = saved_state(self._session, progress)
        if self._writer.is_busy:  # a slow store is no hang
            self._session.channel.say("progress", phase="saving", step=progress.step)
        snapshot = self._session.state.snapshot()
        self._writer.submit(progress.step, snapshot, state, progress.last_metrics, self._wait_for_curves)

    def _wait_for_curves(self) -> None:
        """Curves first: whatever a checkpoint remembers as drawn is kept before it."""
        for curves in self._curves:
            curves.wait()


def saved_state(session: Session, progress: Progress) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    an_epoch = progress.steps_per_epoch
    return {
        "progress": progress.saved(),
        "position": {
            "epoch": progress.step // an_epoch,
            "place": progress.step % an_epoch * session.shape.global_batch_size,
        },
        "seed": session.job.seed,
        "data": session.manifest.digest,
        "lanes": session.lanes,
        "phase": session.phases.saved(),
        "judges": session.judges.saved(),
        "skipped_examples": progress.skipped + session.num_skipped(progress),
        "versions": versions(),
        "job": session.learning,
    }


def open_curves(session: Session, run: RunDir, split: str, from_step: int) -> Curves | None:
    """The chief's curves of `split`, going on from `from_step`; the resolved job as text beside them."""
    if not session.topology.is_chief:
        return None
    curves = curves_in(run, split, from_step)
    if split == "train" and from_step == 0:
        curves.text("job", "".join(f"    {line}\n" for line in dump_job(session.job).splitlines()))
    return curves


def curves_in(run: RunDir, name: str, from_step: int) -> Curves:
    """Curves in a folder of the run's own, going on from `from_step`."""
    folder = f"{names.TENSORBOARD}/{name}"
    is_near = run.store.local_path(folder) is not None
    return Curves(run.local(folder) if is_near else FarEvents(run.store, folder), from_step)


def every(session: Session, log_points: TrainingCurves, evaluation: Evaluation | None, saving: Saving) -> list[Every]:
    """The actions of a training, in the order they happen at one step."""
    trainer, an_epoch = session.job.trainer, session.lengths.steps_per_epoch
    actions = [Every(trainer.log_every_steps, log_points, at_end=True)]
    if evaluation:
        period = trainer.eval_every_steps or an_epoch
        actions.append(Every(period, evaluation, at_end=True))
        actions.append(Every(period, Judging(session, log_points, saving), at_end=True))
    return [*actions, Every(trainer.checkpoint_every_steps, saving, at_end=True)]
