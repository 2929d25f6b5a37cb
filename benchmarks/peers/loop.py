"""Training loops over data in memory, without Convoy: a bare tf.function loop, or `model.fit`.

    python benchmarks/peers/loop.py bare|fit NETWORK BATCH STEPS STEPS_PER_LOOP REPLICAS

REPLICAS is 1, or 2 for two Mirrored replicas on logical CPUs; under TF_CONFIG it is one of several workers. Says the
step it has reached after every loop, on the descriptor that CONVOY_PROGRESS_FD names, as Convoy's worker does.
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from benchmarks.peers.networks import BUILD, SIZE

NUM_EXAMPLES = 1024


def say(step: int) -> None:
    """One progress line."""
    line = json.dumps({"kind": "progress", "phase": "training", "step": step})
    os.write(int(os.environ["CONVOY_PROGRESS_FD"]), f"{line}\n".encode())


def make_strategy(replicas: int) -> tf.distribute.Strategy:
    """Workers where TF_CONFIG names some, else Mirrored, else none."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])


def make_data(network: str, batch_size: int) -> tf.data.Dataset:
    """Shuffled batches gathered from two tensors, for ever."""
    rng = np.random.default_rng(0)
    size = SIZE[network]
    images = tf.constant(rng.integers(0, 256, (NUM_EXAMPLES, size, size, 3), np.uint8))
    labels = tf.constant(rng.integers(0, 10, NUM_EXAMPLES), tf.int32)

    def gather(places):
        return tf.cast(tf.gather(images, places), tf.float32), tf.gather(labels, places)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    places = tf.data.Dataset.range(NUM_EXAMPLES).shuffle(NUM_EXAMPLES).repeat()
    return places.batch(batch_size).map(gather).prefetch(2).with_options(options)


def run_bare(strategy, model, network: str, batch_size: int, steps: int, steps_per_loop: int) -> None:
    """`steps_per_loop` steps in one tf.function; the optimizer sums the gradients of the replicas."""
    with strategy.scope():
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
    workers = strategy.num_replicas_in_sync if "TF_CONFIG" in os.environ else 1
    data = make_data(network, batch_size // workers)
    iterator = iter(data if workers > 1 else strategy.experimental_distribute_dataset(data))
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True)) / batch_size
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    @tf.function
    def loop(iterator):
        loss = tf.constant(0.0)
        for _ in tf.range(steps_per_loop):
            loss = strategy.reduce("SUM", strategy.run(replica_step, next(iterator)), axis=None)
        return loss

    for step in range(steps_per_loop, steps + 1, steps_per_loop):
        float(loop(iterator))
        say(step)


def run_fit(strategy, model, network: str, batch_size: int, steps: int, steps_per_epoch: int) -> None:
    """`model.fit` with its defaults; an epoch as long as four loops of the others, so that its end weighs little."""

    class Say(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            say((epoch + 1) * steps_per_epoch)

    with strategy.scope():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    data, epochs = make_data(network, batch_size), steps // steps_per_epoch
    model.fit(data, steps_per_epoch=steps_per_epoch, epochs=epochs, verbose=0, callbacks=[Say()])


def main() -> None:
    """Train as the command line says."""
    kind, network = sys.argv[1:3]
    batch_size, steps, steps_per_loop, replicas = map(int, sys.argv[3:7])
    strategy = make_strategy(replicas)
    with strategy.scope():
        model = BUILD[network]()
    if kind == "fit":
        run_fit(strategy, model, network, batch_size, steps, 4 * steps_per_loop)
    else:
        run_bare(strategy, model, network, batch_size, steps, steps_per_loop)
    os._exit(0)


main()
