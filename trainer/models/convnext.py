"""ConvNeXt (Liu et al. 2022), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import as_they_are

NAMES = {
    "convnexttiny": 224,
    "convnextsmall": 224,
    "convnextbase": 224,
    "convnextlarge": 224,
    "convnextxlarge": 224,
}
MIN_IMAGE_SIZE = 32


def mixes_examples(spec: ModelSpec) -> bool:
    """It normalises each position by itself."""
    return False


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec) -> keras.Model:
    """A ConvNeXt without its top, for images of `shape`; it normalises pixels itself."""
    return build_application(as_they_are, shape, num_classes, spec)
