"""The three-layer convolutional network of the textbooks."""

import re
from collections.abc import Sequence

import keras

from conf.errors import BadSpec
from conf.schema import ModelSpec
from trainer.models.head import add_head, pool
from trainer.models.pixels import normalise, to_unit

#: A block is a convolution and what follows it.
BLOCKS = re.compile(r"^(conv\d+)$")

#: A hidden layer of none is left out.
LEAST = {"filters": 1, "dense": 0}

#: Of BatchNorm's moving statistics. Small networks are trained for few steps: 0.99 would still remember the start.
MOMENTUM = 0.9


def mixes_examples(spec: ModelSpec) -> bool:
    """It has BatchNorm only where it was asked for."""
    return bool(spec.options.get("batch_norm", False))


def build(
    shape: tuple[int, int, int],
    num_classes: int,
    spec: ModelSpec,
    filters: Sequence[int] = (32, 64, 64),
    dense: int = 64,
    batch_norm: bool = False,
    padding: str = "same",
) -> keras.Model:
    """A convolution and a pooling for each of `filters`, a hidden layer of `dense` units (0: none), a head.

    `batch_norm` puts a BatchNormalization behind each convolution; `padding` is same or valid. Small images keep their
    size where there is nothing left to pool.
    """
    if padding not in ("same", "valid"):
        raise BadSpec.of("trainer.model.options.padding", padding, "is same or valid", "padding=same keeps the size")
    pixels = keras.Input(shape, name="image")
    x = normalise(pixels, spec, to_unit)
    for number, width in enumerate(filters, start=1):
        if padding == "valid" and min(x.shape[1:3]) < 3:
            law = f"padding=valid leaves nothing of images of {min(shape[:2])} pixels for convolution {number}"
            raise BadSpec.of("trainer.model.options.padding", padding, law, "padding=same, or fewer filters")
        x = keras.layers.Conv2D(width, 3, padding=padding, name=f"conv{number}", use_bias=not batch_norm)(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(momentum=MOMENTUM, name=f"norm{number}")(x)
        if min(x.shape[1:3]) >= 4:
            x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
        # The largest of four, then ReLU, is the same as ReLU, then the largest, on a quarter of the numbers.
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = keras.layers.Flatten(name="flatten")(x) if spec.pooling is None else pool(x, spec.pooling)
    if dense:
        x = keras.layers.Dense(dense, activation="relu", name="hidden")(x)
    return keras.Model(pixels, add_head(x, num_classes, spec), name="convnet")
