"""The part of a model that knows the classes: pooling, hidden layers, dropout, a linear layer.

Its layers are `logits` and those whose names begin with `head_`.
"""

import keras

from conf.schema import ModelSpec, Pooling


def pool(features: keras.KerasTensor, pooling: Pooling) -> keras.KerasTensor:
    """A map [batch, height, width, channels] or tokens [batch, tokens, width] -> a vector for each image."""
    if pooling is Pooling.flatten:
        return keras.layers.Flatten(name="head_flatten")(features)
    if len(features.shape) == 3:
        average, largest = keras.layers.GlobalAveragePooling1D, keras.layers.GlobalMaxPooling1D
    else:
        average, largest = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
    if pooling is Pooling.avg:
        return average(name="head_avg_pool")(features)
    return largest(name="head_max_pool")(features)


def add_head(features: keras.KerasTensor, num_classes: int, spec: ModelSpec) -> keras.KerasTensor:
    """Hidden layers, dropout and a linear layer: [batch, width] -> logits [batch, classes].

    Logits are float32 under every precision.
    """
    for number, width in enumerate(spec.hidden, start=1):
        features = keras.layers.Dense(width, activation="relu", name=f"head_hidden{number}")(features)
    if spec.dropout:
        features = keras.layers.Dropout(spec.dropout, name="head_dropout")(features)
    return keras.layers.Dense(num_classes, name="logits", dtype="float32")(features)
