"""The networks that both sides train: the same layers as trainer/models builds, written out in plain Keras."""

import keras
from keras import layers


def cnn() -> keras.Model:
    """Three convolutions on 32 x 32 pixels, as Convoy's convnet without dropout."""
    model = keras.Sequential([layers.Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    for width in (32, 64, 64):
        for layer in (layers.Conv2D(width, 3), layers.MaxPooling2D(), layers.ReLU()):
            model.add(layer)
    for layer in (layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)):
        model.add(layer)
    return model


def mobilenetv2() -> keras.Model:
    """MobileNetV2 on 96 x 96 pixels, without dropout."""
    body = keras.applications.MobileNetV2(input_shape=(96, 96, 3), include_top=False, weights=None, pooling="avg")
    return keras.Sequential([layers.Input((96, 96, 3)), layers.Rescaling(1 / 127.5, -1), body, layers.Dense(10)])


SIZE = {"cnn": 32, "mobilenetv2": 96}
BUILD = {"cnn": cnn, "mobilenetv2": mobilenetv2}
