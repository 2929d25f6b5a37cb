"""What dropout and stochastic depth draw from: Keras's seeds, a different one on every replica.

Keras gives each layer that draws a variable of two numbers, a seed and a counter, and all replicas begin with the same.
Each counts for itself, so all would go on to leave out the same of their parts of a batch: as if it had fewer examples.
"""

import keras
import tensorflow as tf

#: More than any seed that Keras draws, 10^9; by so much the seeds of neighbours differ. An odd part of 2^32, which the
#: remainder that Keras takes (by 2^31 - 2) leaves apart.
STRIDE = 0x9E3779B9
_NAME = "seed_generator_state"


def seeds_of(model: keras.Model) -> list[tf.Variable]:
    """Int64 [2] each: a seed and a counter."""
    return [variable.value for variable in model.variables if variable.name == _NAME]


def set_apart(seeds: list[tf.Variable]) -> None:
    """Give this replica seeds of its own, however often it is called; the first keeps its own. In replica context.

    What a checkpoint holds is the first replica's, so that all others follow from it.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    for state in seeds:
        seed, counter = tf.unstack(state)
        own = seed % STRIDE + tf.cast(replica, seed.dtype) * STRIDE
        state.assign(tf.stack([own, counter]))
