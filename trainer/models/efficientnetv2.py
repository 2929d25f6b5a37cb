"""EfficientNetV2 (Tan and Le 2021), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import as_they_are

NAMES = {
    "efficientnetv2b0": 224,
    "efficientnetv2b1": 240,
    "efficientnetv2b2": 260,
    "efficientnetv2b3": 300,
    "efficientnetv2s": 384,
    "efficientnetv2m": 480,
    "efficientnetv2l": 480,
}
MIN_IMAGE_SIZE = 32


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """An EfficientNetV2 without its top, for images of `shape`; it normalises pixels itself."""
    return build_application(as_they_are, shape, num_classes, spec)
