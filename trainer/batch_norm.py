"""BatchNorm over replicas: moving statistics drift apart between them unless somebody averages them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import tensorflow as tf


def layers_of(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Every layer of a model, those of models inside it too."""
    for layer in getattr(model, "layers", []):
        yield layer
        yield from layers_of(layer)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The BatchNormalization layers of a model."""
    return [layer for layer in layers_of(model) if isinstance(layer, keras.layers.BatchNormalization)]


def synchronize(model: keras.Model) -> None:
    """Let every BatchNorm take its statistics over the batch of all replicas. Before the model is first called."""
    for layer in batch_norms(model):
        layer.synchronized = True


def set_momentum(model: keras.Model, momentum: float) -> None:
    """Let the moving statistics of every BatchNorm be momentum * themselves + (1 - momentum) * the batch's, a step."""
    for layer in batch_norms(model):
        layer.momentum = momentum


def statistics_of(layers: Iterable[keras.layers.BatchNormalization]) -> list[keras.Variable]:
    """Their moving means and variances."""
    return [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]


def averaging(
    strategy: tf.distribute.Strategy, model: keras.Model, averages: Sequence[tf.Variable] = ()
) -> Callable[[], None]:
    """A function that gives every replica the mean of all replicas' moving statistics. Every worker has to call it.

    Those of a frozen layer do not move: they are the same everywhere, and the mean of three might not be. `averages` of
    the statistics that move are averaged over replicas like them.
    """
    moving = statistics_of(layer for layer in batch_norms(model) if layer.trainable)
    statistics = [*(variable.value for variable in moving), *averages]
    if strategy.num_replicas_in_sync == 1 or not statistics:
        return lambda: None

    def average_here() -> None:
        replica = tf.distribute.get_replica_context()
        means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in statistics])
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)

    @tf.function(autograph=False)
    def average() -> None:
        strategy.run(average_here)

    return average
