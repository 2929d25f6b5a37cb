"""When things happen inside the compiled loop: clocks that hang on tensors, so that nothing waits for them.

A step of this worker begins when the one before is applied. `waited` is the time from there until its batch is there;
`own` the time until its gradients are there, which is before it waits for other workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Pace(NamedTuple):
    """Seconds of some steps: without a batch, and until the worker's own gradients were there."""

    waited_s: float
    own_s: float


class Clock:
    """The time (seconds, float64) at which something in the compiled loop is done. One that does not run says 0.

    TensorFlow refuses clocks where operations have to be deterministic.
    """

    def __init__(self, runs: bool = True):
        self.runs = runs

    def now(self) -> tf.Tensor:
        """When this is computed."""
        return tf.timestamp() if self.runs else tf.constant(0.0, tf.float64)

    def when(self, tensors: Sequence[tf.Tensor], sign: tf.Tensor) -> tf.Tensor:
        """When all `tensors` are there. `sign` is any of their device's small ones.

        The sign is brought to the host first: an operation of a GPU is otherwise taken for done when it is enqueued.
        """
        with tf.control_dependencies(tensors):
            last = tf.identity(sign)
        with tf.device("/CPU:0"):
            on_host = tf.identity(last)
            with tf.control_dependencies([on_host]):
                return self.now()

    def arrived(self, batch: object) -> tf.Tensor:
        """When a batch is there, on every replica of this worker."""
        with tf.device("/CPU:0"), tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            return self.now()

    def applied(self, variable: tf.Variable) -> tf.Tensor:
        """When the updates of `variable` that were begun before are done."""
        copies = getattr(variable, "values", None)
        own = copies[0] if isinstance(copies, tuple) else variable
        return self.when([], tf.reshape(own.read_value(), [-1])[0])
