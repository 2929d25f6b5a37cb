"""VGG networks (Simonyan and Zisserman 2014), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_caffe

NAMES = {"vgg16": 224, "vgg19": 224}
MIN_IMAGE_SIZE = 32


def mixes_examples(spec: ModelSpec) -> bool:
    """It has no normalisation at all."""
    return False


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """A VGG network without its top, for images of `shape`.

    The published head is `trainer.model.pooling=flatten trainer.model.hidden=[4096,4096]`.
    """
    return build_application(to_caffe, shape, num_classes, spec)
