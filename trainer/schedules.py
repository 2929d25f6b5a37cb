"""Learning rates as functions of the optimizer's step."""

from typing import Any

import keras
import tensorflow as tf

from conf.schema import TrainerSpec


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


def learning_rate(trainer: TrainerSpec, total_steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of the whole training: a number, or a schedule of optimizer steps."""
    peak, spec = trainer.optimizer.learning_rate, trainer.schedule
    after = None
    if spec.name == "cosine":
        steps = max(total_steps - spec.warmup_steps, 1)
        after = keras.optimizers.schedules.CosineDecay(peak, steps, alpha=spec.end_factor)
    if spec.warmup_steps:
        return Warmup(peak, spec.warmup_steps, after)
    return after or peak
