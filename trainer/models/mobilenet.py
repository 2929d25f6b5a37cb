"""MobileNet (Howard et al. 2017), V2 (Sandler et al. 2018) and V3 (Howard et al. 2019), from keras.applications."""

import keras

from conf.schema import ModelSpec
from trainer.models.application import build_application
from trainer.models.pixels import as_they_are, to_signed

NAMES = {"mobilenet": 224, "mobilenetv2": 224, "mobilenetv3small": 224, "mobilenetv3large": 224}
MIN_IMAGE_SIZE = 32
#: Below it all are the same: Keras gives each layer eight channels at least.
LEAST = {"alpha": 0.05}


def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec, alpha: float = 1.0) -> keras.Model:
    """A MobileNet without its top, `alpha` times as wide, for images of `shape`; V3 normalises pixels itself.

    The published V3 has a hidden layer in its head: `trainer.model.hidden=[1024]` for small, [1280] for large.
    """
    own = as_they_are if spec.name.startswith("mobilenetv3") else to_signed
    return build_application(own, shape, num_classes, spec, alpha=alpha)
