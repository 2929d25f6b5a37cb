"""ResNets (He et al. 2015), and those that normalise before they convolve (V2, 2016), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_caffe, to_signed

NAMES = {
    "resnet50": 224,
    "resnet101": 224,
    "resnet152": 224,
    "resnet50v2": 224,
    "resnet101v2": 224,
    "resnet152v2": 224,
}
MIN_IMAGE_SIZE = 32


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """A ResNet without its top, for images of `shape`."""
    own = to_signed if spec.name.endswith("v2") else to_caffe
    return build_application(own, shape, num_classes, spec)
