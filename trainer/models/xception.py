"""Xception (Chollet 2017), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_signed

NAMES = {"xception": 299}
MIN_IMAGE_SIZE = 71


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """Xception without its top, for images of `shape`."""
    return build_application(to_signed, shape, num_classes, spec)
