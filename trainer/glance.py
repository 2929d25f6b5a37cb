"""What the last step saw and computed, kept in variables so that it can be looked at between calls of the loop.

Made where somebody looks, in the strategy's scope; it copies in every step what it is asked for.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.parts import Batch


class Glance:
    """Copies of the first images of a replica's batch and of the gradient of all replicas, before it is clipped."""

    def __init__(self, variables: Sequence[keras.Variable], num_images: int, image_shape: Sequence[int]):
        self._names = [variable.path for variable in variables]
        self._gradients = [_copy(variable.shape) for variable in variables]
        self._images = _copy([num_images, *image_shape]) if num_images else None

    def see(self, batch: Batch, gradients: Sequence[tf.Tensor]) -> None:
        """Keep what this step has. In replica context."""
        for copy, gradient in zip(self._gradients, gradients):
            copy.assign(tf.cast(gradient, tf.float32))
        if self._images is not None:
            self._images.assign(tf.cast(batch["image"][: self._images.shape[0]], tf.float32))

    @property
    def gradients(self) -> dict[str, NDArray[np.float32]]:
        """The gradient of each weight that trains, by its path."""
        return {name: on_host(copy) for name, copy in zip(self._names, self._gradients)}

    @property
    def images(self) -> NDArray[np.float32] | None:
        """Pixels 0..255, [n, height, width, channels], as they went into the model."""
        return None if self._images is None else on_host(self._images)


def on_host(variable: tf.Variable) -> NDArray[np.float32]:
    """This worker's own value, without asking the others."""
    copies = getattr(variable, "values", None)
    own = copies[0] if isinstance(copies, tuple) else variable
    return np.asarray(own.numpy())


def _copy(shape: Sequence[int]) -> tf.Variable:
    return tf.Variable(
        tf.zeros(shape, tf.float32),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
