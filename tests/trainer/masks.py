"""What dropout and stochastic depth leave out, read from the weights that one step leaves behind.

Each pixel of a batch is lit in one example alone, and the weights begin at zero: so the row of a pixel in the kernel
moves by what one example says of it, or not at all where that was left out. What it moves by is known without any
framework (`expected`).
"""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from conf.schema import ModelSpec, OptimizerSpec, TrainerSpec
from data_pipeline.order import BatchShape
from tests.trainer.arithmetic import CLASSES, copies_of
from trainer.models.head import add_head
from trainer.models.residual import add_residual
from trainer.objective import Objective
from trainer.optimizers import make_optimizer
from trainer.step import TrainingStep

#: Examples of the batch, and the pixels that each of them lights.
EXAMPLES, PIXELS, RATE = 128, 8, 0.25
KINDS = ("dropout", "stochastic_depth")
LEARNING_RATE = 1e-3


def new_model(kind: str) -> keras.Model:
    """Pixels, what leaves some of them out, and logits without any weight yet."""
    spec = ModelSpec(dropout=RATE if kind == "dropout" else 0.0)
    lit = keras.Input((1, EXAMPLES * PIXELS, 1), name="image")
    features = keras.layers.Flatten()(lit)
    if kind == "stochastic_depth":
        features = add_residual(keras.layers.Rescaling(0.0)(features), features, RATE, "block")
    model = keras.Model(lit, add_head(features, CLASSES, spec))
    model.get_layer("logits").kernel.assign(tf.zeros((EXAMPLES * PIXELS, CLASSES)))
    return model


def labels() -> np.ndarray:
    return (np.arange(EXAMPLES) % CLASSES).astype(np.int32)


def expected() -> np.ndarray:
    """Float64 [examples, classes]: the gradient of the mean cross-entropy at equal probabilities, of a lit pixel."""
    return (1 / CLASSES - np.eye(CLASSES)[labels()]) / EXAMPLES


def batches(shape: BatchShape, replicas: range) -> Iterator[dict[str, np.ndarray]]:
    """The same batch again and again, for each of `replicas`."""
    lit = np.repeat(np.eye(EXAMPLES, dtype=np.float32), PIXELS, axis=1).reshape(EXAMPLES, 1, -1, 1)
    while True:
        for replica in replicas:
            rows = shape.rows(replica)
            ones = np.ones(len(rows), np.float32)
            real = {"mask": ones, "weight": ones, "batch_examples": np.float32(EXAMPLES)}
            yield {"image": lit[rows], "label": labels()[rows]} | real


def kernels(kind: str, strategy: tf.distribute.Strategy, first_replica: int, local_replicas: int) -> list[np.ndarray]:
    """The kernel after one step and after two, each [examples, pixels, classes]; two micro-batches a step."""
    shape = BatchShape(EXAMPLES, 2, strategy.num_replicas_in_sync)
    replicas = range(first_replica, first_replica + local_replicas)
    keras.utils.set_random_seed(5)
    spec = OptimizerSpec(name="sgd", learning_rate=LEARNING_RATE, momentum=0.0)
    with strategy.scope():
        model = new_model(kind)
        optimizer = make_optimizer(TrainerSpec(optimizer=spec), 2)
        optimizer.build(model.trainable_variables)
        step = TrainingStep(strategy, model, optimizer, Objective(CLASSES), spec, 2)
    signature = {
        name: tf.TensorSpec(value.shape, value.dtype) for name, value in next(batches(shape, replicas)).items()
    }
    source = tf.data.Dataset.from_generator(lambda: batches(shape, replicas), output_signature=signature)
    source = source.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    iterator, found = iter(strategy.distribute_datasets_from_function(lambda _: source)), []
    for _ in range(2):
        step.run(iterator, tf.constant(1), tf.constant(0.0, tf.float64))
        found.append(copies_of(model.get_layer("logits").kernel)[0].numpy().reshape(EXAMPLES, PIXELS, CLASSES))
    return found
