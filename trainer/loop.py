"""The outer loop: it knows when; the step knows how; actions know what to do in between.

The compiled loop takes some steps at a time. Between two calls Python wakes up to log, evaluate, save and look whether
somebody wants to stop. Where it wakes up depends on absolute step numbers alone, so a resumed run does the same things
at the same steps as one that was never interrupted.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.blown import NO_LOSSES
from trainer.parts import Batch


@dataclass
class Window:
    """Sums since the last point on the curves. Whole in a checkpoint, so that a point is the same across a resume."""

    loss: float = 0.0
    right: float = 0.0
    examples: float = 0.0
    steps: int = 0
    left_out: int = 0  # steps that nothing was learnt in

    def add(self, totals: tf.Tensor, steps: int) -> None:
        """Take in what the compiled loop added up over `steps` steps."""
        loss, right, examples, _ = (float(value) for value in totals)
        self.loss, self.right, self.examples = self.loss + loss, self.right + right, self.examples + examples
        self.steps += steps

    @property
    def mean_loss(self) -> float:
        """Mean loss of a step."""
        return self.loss / max(self.steps, 1)

    @property
    def accuracy(self) -> float:
        """Share of the examples that were classified right."""
        return self.right / max(self.examples, 1.0)


@dataclass
class Progress:
    """Where the training stands. What `saved` gives is what a checkpoint keeps of it."""

    steps: int
    steps_per_epoch: int
    step: int = 0
    window: Window = field(default_factory=Window)
    last_metrics: dict[str, float] = field(default_factory=dict)
    loop_s: float = 0.0  # wall time of the last call of the compiled loop
    loop_steps: int = 0
    stopping: bool = False
    skipped: int = 0  # corrupt examples that were left out, as of the last point on the curves
    lost: int = 0  # of them those of the epoch at hand, as trainer/budget.py counts
    finished: str | None = None  # why it ended before its last step
    ends: Sequence[int] = ()  # of the phases: no call of the compiled loop goes beyond one
    left_out: frozenset[int] = frozenset()  # steps, counted from 1, whose batches are passed over: they blew up
    evaluation_is_due: bool = False  # of the step at hand: a stop came before it, or in the middle
    usual: tuple[float, float] = NO_LOSSES  # loss: what an explosion is told by

    @property
    def epoch(self) -> float:
        """Epochs that are behind."""
        return self.step / self.steps_per_epoch

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.steps or self.finished is not None

    def saved(self) -> dict[str, Any]:
        """The part that a checkpoint keeps, as JSON."""
        return {
            "step": self.step,
            "window": asdict(self.window),
            "last_metrics": self.last_metrics,
            "skipped": self.skipped,
            "lost": self.lost,
            "left_out": sorted(self.left_out),
            "evaluation_is_due": self.evaluation_is_due,
            "usual_loss": list(self.usual),
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.step, self.window = int(saved["step"]), Window(**saved["window"])
        self.last_metrics = dict(saved["last_metrics"])
        self.skipped, self.lost = int(saved.get("skipped", 0)), int(saved.get("lost", 0))
        self.left_out |= {int(step) for step in saved.get("left_out", ())}
        self.evaluation_is_due = bool(saved.get("evaluation_is_due", False))
        mean, count = saved.get("usual_loss", NO_LOSSES)
        self.usual = (float(mean), float(count))


class Every(NamedTuple):
    """An action that is due at each multiple of `steps`, and at the end if `at_end`."""

    steps: int
    act: Callable[[Progress], None]
    at_end: bool = False

    def due(self, progress: Progress) -> bool:
        """Whether the step at hand is one of its own."""
        return progress.step % self.steps == 0 or (self.at_end and progress.is_over)


RunSteps = Callable[[Iterator[Batch], int, bool], tf.Tensor]


def run_loop(
    run_steps: RunSteps,
    batches: Iterator[Batch],
    progress: Progress,
    steps_per_loop: int,
    actions: Iterable[Every],
    wants_to_stop: Callable[[], bool],
    after_loop: Callable[[Progress], None],
) -> None:
    """Train until the last step, or until all workers have agreed to stop (`progress.stopping`).

    `actions` come in order at their steps; `after_loop` comes after every call of the compiled loop.
    """
    actions = list(actions)
    while not progress.is_over and not progress.stopping:
        if progress.step + 1 in progress.left_out:
            pass_over(batches, progress)
        else:
            num_steps = steps_until_next(progress, steps_per_loop, [action.steps for action in actions])
            begun = time.perf_counter()
            totals = run_steps(batches, num_steps, wants_to_stop()).numpy()
            progress.loop_s, progress.loop_steps = time.perf_counter() - begun, num_steps
            progress.step += num_steps
            progress.window.add(totals, num_steps)
            progress.stopping = bool(totals[-1] > 0)
            after_loop(progress)
        for action in actions:
            if action.due(progress):
                action.act(progress)


def pass_over(batches: Iterator[Batch], progress: Progress) -> None:
    """A step in which nothing moves but the number of steps: its batch is read and thrown away."""
    next(batches)
    progress.step += 1
    progress.window.left_out += 1


def steps_until_next(progress: Progress, steps_per_loop: int, periods: Iterable[int]) -> int:
    """Steps until the nearest multiple of `steps_per_loop` or of an action's period, a phase's end or a gap."""
    gaps = (step - 1 for step in progress.left_out)
    later = [end for end in (*progress.ends, *gaps) if end > progress.step]
    ends = [progress.steps, *later, *((progress.step // period + 1) * period for period in (steps_per_loop, *periods))]
    return min(ends) - progress.step
