"""The curve of a learning-rate range test, and what it suggests. Pure.

The test is that of Smith 2015 (Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3):
the rate grows from step to step, and where the loss falls it is of use. A rate is read off the curve by the two rules
of fastai's `lr_find`: where the loss falls steepest over the logarithm of the rate, and a tenth of the rate where it is
least, which is already on the brink.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: A loss this many times the least one so far (both smoothed) has blown up, as in fastai.
BLOW_UP = 4.0
#: Of the running average that is watched for it.
BETA = 0.9
#: Width of the window that the curve is smoothed by, as a share of its points: a standard deviation.
WIDTH = 0.03
#: A loss that falls by less than this share of itself has not been seen to fall.
LEAST_FALL = 0.02
#: Below where the loss is least.
BELOW_LEAST = 10.0
#: Points at an end of the range that belong to it.
EDGE = 2

Curve = NDArray[np.float64]


class Watch:
    """Looks at the losses as they come, for one that blows up."""

    def __init__(self) -> None:
        self._sum, self._weight, self._least = 0.0, 0.0, math.inf

    def is_over(self, loss: float) -> bool:
        """Whether the loss has blown up with this one."""
        if not math.isfinite(loss):
            return True
        self._sum, self._weight = BETA * self._sum + (1 - BETA) * loss, BETA * self._weight + 1 - BETA
        average = self._sum / self._weight
        self._least = min(self._least, average)
        return average > BLOW_UP * self._least


@dataclass(frozen=True)
class Suggestion:
    """What the curve says. `rate` is None where it says nothing; `note` says why, or what to look at."""

    steepest: float | None
    tenth_of_least: float | None
    note: str | None = None

    @property
    def rate(self) -> float | None:
        """The more careful of the two."""
        both = [rate for rate in (self.steepest, self.tenth_of_least) if rate is not None]
        return min(both) if both else None


def smoothed(losses: Curve) -> Curve:
    """Each loss averaged with its neighbours on both sides (a running average would lag behind the rates).

    What has blown up is cut off first, so that one enormous value does not hide the fall before it.
    """
    if not len(losses):
        return losses
    width = max(WIDTH * len(losses), 1.0)
    cut = np.minimum(losses, BLOW_UP * losses[0])
    places = np.arange(len(losses))
    weights = np.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    return np.asarray(weights @ cut / weights.sum(axis=1))


def suggest(rates: Curve, losses: Curve) -> Suggestion:
    """The suggestion of these finite losses, each measured just before the step at its rate."""
    if len(losses) < 2:
        return Suggestion(None, None, "the loss was no number at once: begin lower, or look at the data")
    curve = smoothed(losses)
    least = int(np.argmin(curve))
    if least == 0 or curve[0] - curve[least] < LEAST_FALL * abs(curve[0]):
        return Suggestion(None, None, "the loss did not fall: begin lower, or take more steps")
    slopes = np.gradient(curve, np.log(rates))
    steepest = int(np.argmin(slopes[: least + 1]))
    note = None
    if least >= len(curve) - EDGE:
        note = "the loss was still falling at the highest rate: a higher find_lr.high would show where it ends"
    elif steepest < EDGE:
        note = "the loss fell steepest at the lowest rates: a lower find_lr.low would show where that begins"
    return Suggestion(float(rates[steepest]), float(rates[least] / BELOW_LEAST), note)
