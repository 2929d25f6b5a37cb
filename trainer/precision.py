"""Mixed precision: Keras's dtype policy, and the dynamic loss scale of float16.

Keras's LossScaleOptimizer looks for overflow before gradients are reduced, so replicas may disagree; ours looks after.
"""

import keras
import tensorflow as tf

from conf.schema import Precision

INITIAL_SCALE = 2.0**15
SMALLEST_SCALE = 1.0
#: The scale doubles after so many steps without an overflow, and halves at each overflow (Micikevicius et al. 2018).
GROWTH_STEPS = 2000


def set_policy(precision: Precision) -> None:
    """Make `precision` the dtype policy of every layer built from now on."""
    keras.mixed_precision.set_global_policy(precision.name)


class LossScale:
    """A factor on the loss that keeps small float16 gradients above zero. Create it in the strategy's scope."""

    def __init__(self) -> None:
        self.scale = self._variable(INITIAL_SCALE, tf.float32, "loss_scale/scale")
        self.good_steps = self._variable(0, tf.int64, "loss_scale/good_steps")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {"loss_scale/scale": self.scale, "loss_scale/good_steps": self.good_steps}

    @property
    def can_shrink(self) -> tf.Tensor:
        """Whether an overflow may still be the scale's fault: a smaller one is there to try."""
        return self.scale > SMALLEST_SCALE

    def update(self, finite: tf.Tensor) -> None:
        """Move the scale after a step. Called in replica context with the same `finite` on every replica."""
        good = tf.where(finite, self.good_steps + 1, 0)
        grow = good >= GROWTH_STEPS
        factor = tf.where(finite, tf.where(grow, 2.0, 1.0), 0.5)
        self.scale.assign(tf.maximum(self.scale * factor, SMALLEST_SCALE))
        self.good_steps.assign(tf.where(grow, tf.zeros_like(good), good))

    @staticmethod
    def _variable(value: float, dtype: tf.DType, name: str) -> tf.Variable:
        # Every replica computes the same new value, so each assigns its own copy.
        aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return tf.Variable(value, dtype=dtype, trainable=False, aggregation=aggregation, name=name.replace("/", "_"))


def make_loss_scale(precision: Precision) -> LossScale | None:
    """The loss scale that `precision` needs, if any."""
    return LossScale() if precision is Precision.mixed_float16 else None
