"""One file a family. `build_model` finds it by name: a new model is one new file with a function `build`.

    def build(shape: tuple[int, int, int], num_classes: int, spec: ModelSpec, <its own options>) -> keras.Model

What else a file may say of its models, several names among it, is in `conf/families.py`. The model takes pixels 0..255,
float32 [batch, height, width, channels], and gives logits, float32 [batch, classes]: its preprocessing is its own first
layers, so that an exported model carries it.
"""

import importlib
import re
from types import ModuleType

import keras

from conf import families, rules
from conf.errors import BadSpec
from conf.schema import BatchNormSync, ModelSpec
from trainer import batch_norm


def build_model(spec: ModelSpec, shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """The model of `spec` for images of `shape` (height, width, channels). Call in the strategy's scope.

    Raises BadSpec for an unknown family, an unknown option and images that are too small.
    """
    problem = rules.model_problem(spec)
    if problem:
        raise BadSpec([problem])
    smallest = families.min_image_size(spec)
    if min(shape[:2]) < smallest:
        law = f"{spec.name} cannot take images smaller than {smallest} pixels"
        raise BadSpec.of("data.image_size", min(shape[:2]), law, f"data.image_size={smallest}")
    model = _family(spec).build(shape, num_classes, spec, **spec.options)
    if spec.batch_norm is BatchNormSync.synchronized:
        batch_norm.synchronize(model)
    if spec.batch_norm_momentum is not None:
        batch_norm.set_momentum(model, spec.batch_norm_momentum)
    return model


def mixes_examples(spec: ModelSpec) -> bool:
    """Whether the output for an example depends on the others of its batch in training, as with BatchNorm.

    A family without BatchNorm says so by a function `mixes_examples(spec)` of its own.
    """
    if spec.name not in families.known():
        return True
    says = getattr(_family(spec), "mixes_examples", None)
    return says is None or bool(says(spec))


def block_pattern(spec: ModelSpec) -> re.Pattern[str] | None:
    """What finds a block's name in a layer's, where the family says so by a pattern `BLOCKS` of its own."""
    return getattr(_family(spec), "BLOCKS", None)


def _family(spec: ModelSpec) -> ModuleType:
    return importlib.import_module(f"{__name__}.{families.known()[spec.name].module}")
