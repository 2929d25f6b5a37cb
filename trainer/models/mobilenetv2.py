"""MobileNetV2, from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_signed


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """MobileNetV2 without its top, for images of `shape`."""
    return build_application(keras.applications.MobileNetV2, to_signed, shape, num_classes, spec)
