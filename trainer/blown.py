"""The vital signs of a step: its loss, and the norm of its gradient, over all replicas. One that is not finite is a
blow-up.

They come out of the compiled loop with everything else, so looking at them costs one pass over the gradients.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

#: What the compiled loop begins with: (number of the step within the call, its loss, its norm), float32.
NOT_BLOWN = (-1.0, 0.0, 0.0)


class Blown(NamedTuple):
    """The first step of a call of the compiled loop that blew up: its number from 0, its loss, its gradient's norm."""

    number: int
    loss: float
    norm: float

    @classmethod
    def of(cls, number: float, loss: float, norm: float) -> "Blown | None":
        """What the compiled loop found; None where all went well."""
        return None if number < 0 else cls(int(number), loss, norm)

    @property
    def words(self) -> str:
        """What is not finite."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return f"the loss is {self.loss:.4g} and the norm of the gradient {self.norm}"


def vital_signs(loss: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Loss and norm of the gradient, float32 [2]. A norm too large for float32 is infinite."""
    squares = 2 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients])
    return tf.stack([loss, tf.sqrt(squares)])


def first_blown(found: tf.Tensor, number: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
    """What is known after step `number`: `found` where it is a blow-up already, else this step if it blew up."""
    is_first = (found[0] < 0) & ~tf.reduce_all(tf.math.is_finite(signs))
    return tf.where(is_first, tf.concat([[tf.cast(number, tf.float32)], signs], 0), found)
