"""Learning rates as their papers and manuals have them, in NumPy: what schedules are compared with."""

import numpy as np

from conf.schema import ScheduleSpec


def _cosine(share: float) -> float:
    return float(0.5 * (1 + np.cos(np.pi * share)))


def _one_cycle(share: float) -> float:
    """From 1/25 up to 1 in 30 % of the steps, and down to 1e-4 of where it began."""
    if share < 0.3:
        return 1 + (1 / 25 - 1) * _cosine(share / 0.3)
    return 1e-4 / 25 + (1 - 1e-4 / 25) * _cosine((share - 0.3) / 0.7)


def share_of_peak(spec: ScheduleSpec, step: int, steps: int) -> float:
    """What the peak is multiplied by at a step, counted from 0, of so many."""
    if step < spec.warmup_steps:
        return step / spec.warmup_steps
    step, steps = step - spec.warmup_steps, steps - spec.warmup_steps
    share, least = step / steps, spec.end_factor
    every = spec.every_steps or steps // 3
    match spec.name:
        case "constant":
            return 1.0
        case "cosine":
            return least + (1 - least) * _cosine(share)
        case "cosine_restarts":
            length = steps / spec.cycles
            return least + (1 - least) * _cosine(1.0 if step == steps else step % length / length)
        case "step":
            return float(spec.factor ** (step // every))
        case "exponential":
            return float(spec.factor ** (step / every))
        case "polynomial":
            return float(least + (1 - least) * (1 - share) ** spec.power)
        case "one_cycle":
            return _one_cycle(share)
        case other:
            raise ValueError(other)
