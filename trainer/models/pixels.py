"""Pixels 0..255 to what a family was designed for, as layers that travel with the model."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from conf.errors import BadSpec
from conf.schema import ModelSpec, Pixels

#: Of ImageNet's training images in 0..1.
MEAN_RGB = (0.485, 0.456, 0.406)
DEVIATION_RGB = (0.229, 0.224, 0.225)

Normalisation = Callable[[keras.KerasTensor], keras.KerasTensor]


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


def to_imagenet(images: keras.KerasTensor) -> keras.KerasTensor:
    """RGB 0..255 -> how many deviations each channel is from ImageNet's mean, as torchvision's models take it."""
    scale = [1 / (255 * deviation) for deviation in DEVIATION_RGB]
    offset = [-mean / deviation for mean, deviation in zip(MEAN_RGB, DEVIATION_RGB, strict=True)]
    return keras.layers.Rescaling(scale, offset, name="imagenet_pixels", dtype="float32")(images)


def as_they_are(images: keras.KerasTensor) -> keras.KerasTensor:
    """0..255, for families which begin with a scaling of their own."""
    return images


def normalise(images: keras.KerasTensor, spec: ModelSpec, own: Normalisation) -> keras.KerasTensor:
    """Pixels 0..255 as `trainer.model.pixels` asks; `own` is what the family was designed for.

    Raises BadSpec where that cannot be: a family that scales inside, ImageNet's three colours on grey images.
    """
    if spec.pixels is Pixels.own:
        return own(images)
    if own is as_they_are:
        law = f"{spec.name} normalises inside of its own network"
        raise BadSpec.of("trainer.model.pixels", spec.pixels, law, "trainer.model.pixels=own")
    if spec.pixels is Pixels.imagenet and images.shape[-1] != 3:
        law = "ImageNet's mean and deviation are of red, green and blue, these images are grey"
        raise BadSpec.of("trainer.model.pixels", spec.pixels, law, "trainer.model.pixels=unit, or data.channels=3")
    return {Pixels.unit: to_unit, Pixels.signed: to_signed, Pixels.imagenet: to_imagenet}[spec.pixels](images)
