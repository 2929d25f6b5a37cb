"""The vital signs of a step: its loss, and the norm of its gradient, over all replicas. One that is not finite is a
blow-up; so is, where the job says how much is too much, a loss that explodes.

They come out of the compiled loop with everything else. The norm is also what gradients are clipped by, so looking at
it costs nothing where they are, and else one pass over the gradients.
"""

import math
from typing import NamedTuple

import tensorflow as tf

#: What the compiled loop begins with: number of the step within the call, loss, norm, usual loss; float32.
NOT_BLOWN = (-1.0, 0.0, 0.0, 0.0)
#: The usual loss before there was any: a running mean, and how many losses it is of.
NO_LOSSES = (0.0, 0.0)
#: How many losses make a usual one...
FEWEST = 8.0
#: ...and over how many of the last ones it is taken, about.
MOST = 50.0


class Blown(NamedTuple):
    """The first step of a call of the compiled loop that blew up: its number from 0, its loss, its gradient's norm.

    `usual` is the running mean of the losses before it, where the job looks for explosions.
    """

    number: int
    loss: float
    norm: float
    usual: float = 0.0

    @classmethod
    def of(cls, number: float, loss: float, norm: float, usual: float) -> "Blown | None":
        """What the compiled loop found; None where all went well."""
        return None if number < 0 else cls(int(number), loss, norm, usual)

    @property
    def words(self) -> str:
        """What is not finite, or too much."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        if not math.isfinite(self.norm):
            return f"the loss is {self.loss:.4g} and the norm of the gradient {self.norm}"
        return f"the loss is {self.loss:.4g}, and its running mean {self.usual:.4g}"


def usual_after(usual: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
    """The running mean of the loss, and how many losses it is of, after one more: float32 [2]."""
    count = tf.minimum(usual[1] + 1, MOST)
    return tf.stack([usual[0] + (loss - usual[0]) / count, count])


def first_blown(
    found: tf.Tensor, number: tf.Tensor, signs: tf.Tensor, usual: tf.Tensor, factor: float | None = None
) -> tf.Tensor:
    """What is known after step `number`: `found` where it is a blow-up already, else this step if it blew up.

    `signs` are its loss and norm. With a `factor`, so many times the usual loss is a blow-up too.
    """
    is_blown = ~tf.reduce_all(tf.math.is_finite(signs))
    if factor is not None:
        is_blown |= (usual[1] >= FEWEST) & (signs[0] > factor * usual[0])
    is_first = (found[0] < 0) & is_blown
    return tf.where(is_first, tf.concat([[tf.cast(number, tf.float32)], signs, usual[:1]], 0), found)
