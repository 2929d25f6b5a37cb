"""Layers which compute with a copy of their variables, made when they are built."""

import keras

from trainer.batch_norm import layers_of


def refresh(model: keras.Model) -> None:
    """Let such layers see what was put into their variables; call it after every restore, before the model is traced.

    Keras's Normalization (at the front of an EfficientNet) turns its mean and variance into constants.
    """
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
