"""Learning rates as functions of the optimizer's step."""

import math
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from conf.schema import OptimizerSpec, ScheduleSpec, TrainerSpec

#: How the one-cycle policy of Smith and Topin 2018 begins and ends, and the share of its steps that rise.
_ONE_CYCLE_START, _ONE_CYCLE_END, _ONE_CYCLE_RISE = 1 / 25, 1e-4 / 25, 0.3


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from 0 to `peak` over `steps` steps, then whatever `after` says (counted from the rise's end)."""

    def __init__(self, peak: float, steps: int, after: keras.optimizers.schedules.LearningRateSchedule | None):
        self.peak, self.steps, self.after = peak, steps, after

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate at `step`."""
        place = tf.cast(step, tf.float32)
        rising = self.peak * place / max(self.steps, 1)
        later = self.after(place - self.steps) if self.after else tf.constant(self.peak)
        return tf.where(place < self.steps, rising, later)


class CosineRestarts(keras.optimizers.schedules.LearningRateSchedule):
    """`cycles` cosine falls of equal length from `peak` to peak * `end`; Loshchilov and Hutter 2017, T_mult = 1."""

    def __init__(self, peak: float, steps: int, cycles: int, end: float):
        self.peak, self.steps, self.cycles, self.end = peak, steps, cycles, end

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate at `step`; the last fall stays where it ended."""
        length = self.steps / self.cycles
        place = tf.cast(step, tf.float32) / length
        fallen = tf.where(place < self.cycles, tf.math.mod(place, 1.0), 1.0)
        return self.peak * (self.end + (1 - self.end) * 0.5 * (1 + tf.cos(math.pi * fallen)))


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Up along a cosine to `peak` in the first 30 % of the steps, then down along another, far below the start."""

    def __init__(self, peak: float, steps: int):
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate at `step`."""
        share = tf.clip_by_value(tf.cast(step, tf.float32) / self.steps, 0.0, 1.0)
        rising = self._between(_ONE_CYCLE_START, 1.0, share / _ONE_CYCLE_RISE)
        falling = self._between(1.0, _ONE_CYCLE_END, (share - _ONE_CYCLE_RISE) / (1 - _ONE_CYCLE_RISE))
        return tf.where(share < _ONE_CYCLE_RISE, rising, falling)

    def _between(self, first: float, last: float, share: tf.Tensor) -> tf.Tensor:
        return self.peak * (last + (first - last) * 0.5 * (1 + tf.cos(math.pi * share)))


class InPhase(keras.optimizers.schedules.LearningRateSchedule):
    """A rate counted from the step a phase begins with, times what `factor`, if there is one, holds."""

    def __init__(self, rate: "Rate", begun: int, factor: tf.Variable | None = None):
        self.rate, self.begun, self.factor = rate, begun, factor

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate at `step` of the optimizer."""
        rate = self.rate(step - self.begun) if callable(self.rate) else tf.constant(self.rate)
        return rate if self.factor is None else rate * self.factor


#: A number, or a schedule of optimizer steps.
Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def learning_rate(trainer: TrainerSpec, total_steps: int) -> Rate:
    """The learning rate of a whole training in one phase."""
    return scheduled(peak_rate(trainer), trainer.schedule, total_steps)


def scheduled(peak: float, spec: ScheduleSpec, steps: int) -> Rate:
    """A rate of `peak` that moves as `spec` says over so many steps."""
    after = _after_warmup(spec, peak, max(steps - spec.warmup_steps, 1))
    if spec.warmup_steps:
        return Warmup(peak, spec.warmup_steps, after)
    return after or peak


def peak_rate(trainer: TrainerSpec) -> float:
    """The learning rate that was asked, for the global batch at hand."""
    return scaled_rate(trainer.optimizer, trainer.global_batch_size)


def scaled_rate(optimizer: OptimizerSpec, global_batch_size: int) -> float:
    """The rate of an optimizer, grown with the global batch where it was stated for another one.

    The linear scaling rule of Goyal et al. 2017.
    """
    stated_for = optimizer.reference_batch_size
    rate = optimizer.learning_rate
    return rate * global_batch_size / stated_for if stated_for else rate


def _after_warmup(
    spec: ScheduleSpec, peak: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    schedules = keras.optimizers.schedules
    every = spec.every_steps or max(steps // 3, 1)
    match spec.name:
        case "cosine":
            return schedules.CosineDecay(peak, steps, alpha=spec.end_factor)
        case "cosine_restarts":
            return CosineRestarts(peak, steps, spec.cycles, spec.end_factor)
        case "step" | "exponential":
            return schedules.ExponentialDecay(peak, every, spec.factor, staircase=spec.name == "step")
        case "polynomial":
            return schedules.PolynomialDecay(peak, steps, peak * spec.end_factor, spec.power)
        case "one_cycle":
            return OneCycle(peak, steps)
        case _:
            return None
