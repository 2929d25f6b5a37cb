"""InceptionV3 (Szegedy et al. 2015) and InceptionResNetV2 (2016), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_signed

NAMES = {"inceptionv3": 299, "inceptionresnetv2": 299}
MIN_IMAGE_SIZE = 75


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """An Inception network without its top, for images of `shape`."""
    return build_application(to_signed, shape, num_classes, spec)
