"""Pixels 0..255 to what a family was designed for, as layers that travel with the model."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("convoy")
class CaffePixels(keras.layers.Layer):
    """RGB to BGR, minus ImageNet's mean colour: what the ResNets of 2015 were trained on."""

    MEAN_BGR = (103.939, 116.779, 123.68)

    def call(self, images: Any) -> Any:
        """[..., 3] RGB in 0..255 -> [..., 3] BGR around 0."""
        return images[..., ::-1] - ops.convert_to_tensor(self.MEAN_BGR, dtype=images.dtype)


def to_rgb(images: keras.KerasTensor) -> keras.KerasTensor:
    """Three channels: grey images are repeated."""
    if images.shape[-1] == 3:
        return images
    return keras.layers.Concatenate(name="grey_to_rgb", dtype="float32")([images] * 3)


def to_unit(images: keras.KerasTensor) -> keras.KerasTensor:
    """0..255 -> 0..1."""
    return keras.layers.Rescaling(1 / 255, name="unit_pixels", dtype="float32")(images)


def to_signed(images: keras.KerasTensor) -> keras.KerasTensor:
    """0..255 -> -1..1."""
    return keras.layers.Rescaling(1 / 127.5, offset=-1, name="signed_pixels", dtype="float32")(images)


def to_caffe(images: keras.KerasTensor) -> keras.KerasTensor:
    """RGB 0..255 -> BGR minus the mean."""
    return CaffePixels(name="caffe_pixels", dtype="float32")(images)


def as_they_are(images: keras.KerasTensor) -> keras.KerasTensor:
    """0..255, for families which begin with a scaling of their own."""
    return images
