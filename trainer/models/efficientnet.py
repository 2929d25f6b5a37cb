"""EfficientNets (Tan and Le 2019), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import as_they_are

NAMES = {
    "efficientnetb0": 224,
    "efficientnetb1": 240,
    "efficientnetb2": 260,
    "efficientnetb3": 300,
    "efficientnetb4": 380,
    "efficientnetb5": 456,
    "efficientnetb6": 528,
    "efficientnetb7": 600,
}
MIN_IMAGE_SIZE = 32


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """An EfficientNet without its top, for images of `shape`; it normalises pixels itself."""
    return build_application(as_they_are, shape, num_classes, spec)
