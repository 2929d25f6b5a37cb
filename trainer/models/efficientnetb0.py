"""EfficientNetB0, from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import as_they_are


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """EfficientNetB0 without its top, for images of `shape`."""
    return build_application(keras.applications.EfficientNetB0, as_they_are, shape, num_classes, spec)
