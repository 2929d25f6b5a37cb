"""NASNet-A (Zoph et al. 2018), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import to_signed

NAMES = {"nasnetmobile": 224, "nasnetlarge": 331}
MIN_IMAGE_SIZE = 32


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """A NASNet without its top, for images of `shape`."""
    return build_application(to_signed, shape, num_classes, spec)
