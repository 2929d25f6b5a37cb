"""Which checkpoints stay: the newest, the best, and one every so many steps. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conf.schema import TrainerSpec


@dataclass(frozen=True)
class Retention:
    """What is kept; whatever is asked, the newest is."""

    last: int = 3
    best: int = 0  # by `metric`, beside the last ones
    metric: str = "validation_accuracy"
    every_steps: int | None = None  # multiples of it stay for ever
    needed: frozenset[int] = frozenset()  # steps that something else refers to

    @classmethod
    def of(cls, trainer: TrainerSpec) -> "Retention":
        """What a job's training keeps."""
        return cls(trainer.keep_checkpoints, trainer.keep_best, trainer.best_metric, trainer.keep_every_steps)

    def kept(self, metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps to keep of checkpoints whose last evaluation, by step, gave `metrics`.

        Checkpoints without the metric, or whose metric is no number (NaN), are never among the best. Of those in a row
        that remember the same evaluation the oldest alone may be, which was nearest to it; of equals the older is the
        better.
        """
        steps = sorted(metrics)
        firsts = [step for last, step in zip([None, *steps], steps) if last is None or metrics[last] != metrics[step]]
        measured = [step for step in firsts if not math.isnan(metrics[step].get(self.metric, math.nan))]
        sign = 1 if is_loss(self.metric) else -1
        ranked = sorted(measured, key=lambda step: (sign * metrics[step][self.metric], step))
        milestones = [step for step in steps if self.every_steps and step % self.every_steps == 0]
        return {*steps[-max(self.last, 1) :], *ranked[: self.best], *milestones, *self.needed & set(steps)}


def needed_by(state: Mapping[str, Any] | None) -> frozenset[int]:
    """The steps that the newest state of a training refers to: its best, whose weights it may end with."""
    step = ((state or {}).get("judges", {}).get("early_stopping", {}) or {}).get("best_step")
    return frozenset() if step is None else frozenset([int(step)])


def is_loss(metric: str) -> bool:
    """Whether less of this metric is better."""
    return metric.endswith("loss")
