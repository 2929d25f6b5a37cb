"""The loop that a person writes for several workers: `fit` of Keras 3 fails under MultiWorkerMirroredStrategy."""

import time

import numpy as np
import tensorflow as tf
from keras import losses, optimizers

from benchmarks.peers.networks import cnn


def train(steps: int = 20, global_batch_size: int = 64, after_step=None) -> float:
    """Train the CNN as one of TF_CONFIG's workers; when the first step was done. `after_step` hears of each step."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replica_batch_size = global_batch_size // strategy.num_replicas_in_sync
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (replica_batch_size, 32, 32, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, 10, replica_batch_size))
    with strategy.scope():
        model, optimizer = cnn(), optimizers.Adam()
        optimizer.build(model.trainable_variables)
    loss_function = losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    def replica_step():
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True)) / global_batch_size
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    step = tf.function(lambda: strategy.run(replica_step))
    first = 0.0
    for number in range(1, steps + 1):
        float(strategy.reduce("SUM", step(), axis=None))
        first = first or time.time()
        if after_step:
            after_step(number)
    return first
