"""Exponential moving averages of the weights (Polyak averaging), for evaluations and exports.

After the update number n, counted from 0, an average moves by 1 - d towards its weight, with
d = min(decay, (1 + n) / (10 + n)): short trainings forget where they began, as in tf.train.ExponentialMovingAverage.
BatchNorm's moving statistics are averaged too, for they belong to the weights they were taken with.
"""

import contextlib
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf

from trainer.batch_norm import batch_norms, statistics_of


class WeightAverages:
    """The averages of a model whose layers are all trainable still. Make it in the strategy's scope."""

    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model, decay: float):
        self._strategy, self._decay = strategy, decay
        averaged = [*model.trainable_variables, *statistics_of(batch_norms(model))]
        self._weights = {variable.path: variable.value for variable in averaged}
        self._averages = {path: self._beside(value) for path, value in self._weights.items()}
        self._updates = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        #: What has trained so far; the averages of all else are the weights themselves.
        self._moving: set[str] = set()

    def _beside(self, weight: tf.Variable) -> tf.Variable:
        with self._strategy.extended.colocate_vars_with(weight):
            return tf.Variable(weight, trainable=False)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint keeps."""
        return {"ema_updates": self._updates} | {f"ema/{path}": average for path, average in self._averages.items()}

    def begin(self) -> None:
        """Let every average be its weight, where a training begins."""
        for path, average in self._averages.items():
            average.assign(self._weights[path])

    def follow(self, variables: Iterable[keras.Variable]) -> None:
        """Let the averages of these move too, from the next compiled step on."""
        self._moving |= {variable.path for variable in variables} & self._weights.keys()

    def averages_of(self, variables: Iterable[keras.Variable]) -> list[tf.Variable]:
        """The averages of some variables."""
        return [self._averages[variable.path] for variable in variables]

    def update(self) -> None:
        """Move after an update of the weights. In replica context: each replica moves its own copies."""
        count = tf.cast(self._updates, tf.float32)
        rest = 1 - tf.minimum(self._decay, (1 + count) / (10 + count))
        for path in (path for path in self._weights if path in self._moving):
            average = self._averages[path]
            # average -= rest * (average - weight): one that equals its weight stays as it is, to the last bit.
            difference = average - self._weights[path]
            tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=rest, delta=difference)
        self._updates.assign_add(1)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the averages for weights. Every worker has to enter it."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @tf.function(autograph=False)
    def swap(self) -> None:
        """Exchange weights and averages on every replica of this worker."""
        self._strategy.run(self._swap_here)

    def _swap_here(self) -> None:
        for path, weight in self._weights.items():
            value, average = tf.identity(weight.read_value()), tf.identity(self._averages[path].read_value())
            weight.assign(average)
            self._averages[path].assign(value)
