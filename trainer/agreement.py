"""What workers have to agree on between calls of the compiled loop: one collective, so all have to ask."""

import functools
from collections.abc import Sequence

import tensorflow as tf


class Agreement:
    """Adds up a few numbers of every worker. Whoever asks waits for the others to ask at the same place."""

    def __init__(self, strategy: tf.distribute.Strategy, num_workers: int):
        self._strategy, self._num_workers = strategy, num_workers

    def everywhere(self, value: float) -> bool:
        """Whether every worker has this value."""
        if self._num_workers == 1:
            return True
        total, squares = self._sums([value, value**2])
        replicas = self._strategy.num_replicas_in_sync
        return total == value * replicas and squares == value**2 * replicas

    def anywhere(self, wish: bool) -> bool:
        """Whether any worker wishes it."""
        return wish if self._num_workers == 1 else self._sums([float(wish)])[0] > 0

    def _sums(self, values: Sequence[float]) -> list[float]:
        return [float(total) for total in self._compiled(tf.constant(values, tf.float64)).numpy()]

    @functools.cached_property
    def _compiled(self) -> tf.types.experimental.PolymorphicFunction:
        @tf.function(autograph=False)
        def sums(own: tf.Tensor) -> tf.Tensor:
            everyone = self._strategy.run(tf.identity, args=(own,))
            return self._strategy.reduce(tf.distribute.ReduceOp.SUM, everyone, axis=None)

        return sums
