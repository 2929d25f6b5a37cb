"""DenseNets (Huang et al. 2017), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_imagenet

NAMES = {"densenet121": 224, "densenet169": 224, "densenet201": 224}
MIN_IMAGE_SIZE = 32


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """A DenseNet without its top, for images of `shape`."""
    return build_application(to_imagenet, shape, num_classes, spec)
