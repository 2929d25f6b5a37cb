"""What evaluations decide: a lower learning rate, the end of the training, which weights were the best. Pure.

Both rules are those of Keras's callbacks EarlyStopping and ReduceLROnPlateau, counted in evaluations. Every worker
judges the same global metrics, so all decide the same.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from conf.schema import EarlyStoppingSpec, PlateauSpec, TrainerSpec
from trainer.retention import is_loss


def is_better(metric: str, value: float, than: float | None, min_delta: float = 0.0) -> bool:
    """Whether `value` beats `than` by more than `min_delta`. What is not a number beats nothing."""
    if math.isnan(value):
        return False
    if than is None:
        return True
    return value + min_delta < than if is_loss(metric) else value - min_delta > than


@dataclass
class Patience:
    """How long an early stopping has waited, and since when."""

    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # all that the best evaluation gave

    def judge(self, spec: EarlyStoppingSpec, value: float, step: int, may_stop: bool = True) -> bool:
        """Whether the training ends here. Where it `may_stop` no evaluation counts as waiting before."""
        self.waited = self.waited + 1 if may_stop else 0
        if is_better(spec.metric, value, self.best, spec.min_delta):
            self.best, self.best_step, self.waited = value, step, 0
            return False
        return may_stop and spec.patience is not None and self.waited >= spec.patience


@dataclass
class Plateau:
    """What a learning rate is multiplied by, and what was seen since it was lowered."""

    factor: float = 1.0
    best: float | None = None
    waited: int = 0
    cooling: int = 0

    def judge(self, spec: PlateauSpec, value: float) -> bool:
        """Whether the rate is lowered."""
        if self.cooling > 0:
            self.cooling -= 1
            self.waited = 0
        if is_better(spec.metric, value, self.best, spec.min_delta):
            self.best, self.waited = value, 0
            return False
        if self.cooling > 0:
            return False
        self.waited += 1
        if spec.patience is None or self.waited < spec.patience or self.factor <= spec.min_factor:
            return False
        self.factor = max(self.factor * spec.factor, spec.min_factor)
        self.cooling, self.waited = spec.cooldown, 0
        return True


@dataclass(frozen=True)
class Judgement:
    """What an evaluation led to."""

    lowered: bool = False
    is_best: bool = False
    stopped: str | None = None  # why the training ends here


@dataclass
class Judges:
    """The judges of a training, and what they remember."""

    stopping: EarlyStoppingSpec | None = None
    plateau: PlateauSpec | None = None
    patience: Patience = field(default_factory=Patience)
    rate: Plateau = field(default_factory=Plateau)
    bests: dict[str, tuple[float, int]] = field(default_factory=dict)  # the best of each metric, and its step
    stopped: str | None = None

    @classmethod
    def of(cls, trainer: TrainerSpec) -> "Judges":
        """Those that a job asks for."""
        stopping, plateau = trainer.early_stopping, trainer.plateau
        return cls(None if stopping.patience is None else stopping, None if plateau.patience is None else plateau)

    @property
    def restores_best(self) -> bool:
        """Whether the training ends with the weights of its best evaluation."""
        return self.stopping is not None and self.stopping.restore_best

    @property
    def protected(self) -> set[int]:
        """The steps whose checkpoints are needed still."""
        return {self.patience.best_step} if self.restores_best and self.patience.best_step is not None else set()

    def judge(self, metrics: Mapping[str, float], step: int, is_last_phase: bool = True) -> Judgement:
        """Look at what an evaluation gave. Only the last phase ends early: those before it have their lengths."""
        for metric, value in metrics.items():
            if is_better(metric, value, self.bests[metric][0] if metric in self.bests else None):
                self.bests[metric] = (value, step)
        lowered = self.plateau is not None and self.rate.judge(self.plateau, metrics[self.plateau.metric])
        if self.stopping is None:
            return Judgement(lowered)
        metric, patience = self.stopping.metric, self.patience
        if patience.judge(self.stopping, metrics[metric], step, is_last_phase):
            best = "was never a number" if patience.best is None else f"was best at step {patience.best_step}"
            found = "" if patience.best is None else f" ({patience.best:.4f})"
            self.stopped = f"stopped early at step {step}: {metric} {best}{found}, {patience.waited} evaluations ago"
        if patience.best_step == step:
            patience.metrics = dict(metrics)
        return Judgement(lowered, patience.best_step == step, self.stopped)

    def next_phase(self) -> None:
        """Each phase begins with its own learning rate, and waits anew."""
        self.rate, self.patience.waited = Plateau(), 0

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "early_stopping": asdict(self.patience),
            "plateau": asdict(self.rate),
            "best_metrics": {metric: list(found) for metric, found in self.bests.items()},
            "stopped": self.stopped,
        }

    def resume(self, saved: dict[str, Any] | None) -> None:
        """Go on from what a checkpoint kept; None where it was saved before there were judges."""
        if saved is not None:
            self.patience, self.rate = Patience(**saved["early_stopping"]), Plateau(**saved["plateau"])
            self.bests = {metric: (float(value), int(step)) for metric, (value, step) in saved["best_metrics"].items()}
            self.stopped = saved["stopped"]
