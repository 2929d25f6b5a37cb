"""The part of a model that knows the classes."""

import keras


def add_head(features: keras.KerasTensor, num_classes: int, dropout: float) -> keras.KerasTensor:
    """Dropout and a linear layer: features [batch, width] -> logits [batch, classes], float32 under every precision."""
    if dropout:
        features = keras.layers.Dropout(dropout, name="head_dropout")(features)
    return keras.layers.Dense(num_classes, name="logits", dtype="float32")(features)
