"""ResNet50, from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_caffe


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """ResNet50 without its top, for images of `shape`."""
    return build_application(keras.applications.ResNet50, to_caffe, shape, num_classes, spec)
