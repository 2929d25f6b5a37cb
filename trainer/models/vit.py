"""The vision transformer of Dosovitskiy et al. (2020), in the sizes of Touvron et al. (2021)."""

from typing import Any, NamedTuple

import keras
from keras import ops

from conf import rules
from conf.errors import BadSpec
from conf.schema import ModelSpec
from trainer.models.head import add_head, pool
from trainer.models.pixels import normalise, to_signed
from trainer.models.residual import add_residual


class Size(NamedTuple):
    """Width of a token, number of blocks, attention heads a block."""

    width: int
    depth: int
    heads: int


NAMES = {"vit": 224}
MIN_IMAGE_SIZE = 8
STOCHASTIC_DEPTH = True
LEAST = {"patch": 1}
SIZES = {"ti": Size(192, 12, 3), "s": Size(384, 12, 6), "b": Size(768, 12, 12)}


@keras.saving.register_keras_serializable("convoy")
class TokensWithPlaces(keras.layers.Layer):
    """Puts a class token before the patches and adds a learnt place to each."""

    def build(self, input_shape: tuple[int | None, int, int]) -> None:
        """`input_shape` is [batch, patches, width]."""
        _, patches, width = input_shape
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.class_token = self.add_weight(shape=(1, 1, width), initializer="zeros", name="class_token")
        self.places = self.add_weight(shape=(1, patches + 1, width), initializer=small, name="places")

    def call(self, patches: Any) -> Any:
        """[batch, patches, width] -> [batch, 1 + patches, width]."""
        token = ops.broadcast_to(self.class_token, (ops.shape(patches)[0], 1, patches.shape[-1]))
        return ops.concatenate([ops.cast(token, patches.dtype), patches], axis=1) + ops.cast(self.places, patches.dtype)


def mixes_examples(spec: ModelSpec) -> bool:
    """It normalises each token by itself."""
    return False


def build(
    shape: tuple[int, int, int], num_classes: int, spec: ModelSpec, size: str = "ti", patch: int = 16
) -> keras.Model:
    """A ViT of `size` ti, s or b over patches of `patch` x `patch` pixels; the class token is what the head sees.

    With `trainer.model.pooling` the head sees the other tokens, pooled.
    """
    if size not in SIZES:
        raise BadSpec.of("trainer.model.options.size", size, "there is no such ViT", rules.nearest(size, list(SIZES)))
    if shape[0] % patch or shape[1] % patch:
        law = f"patches of {patch} pixels do not tile the image"
        cure = f"data.image_size={max(shape[0] // patch, 1) * patch}, or another trainer.model.options.patch"
        raise BadSpec.of("data.image_size", shape[0], law, cure)
    width, depth, heads = SIZES[size]
    pixels = keras.Input(shape, name="image")
    x = keras.layers.Conv2D(width, patch, strides=patch, name="patches")(normalise(pixels, spec, to_signed))
    x = keras.layers.Reshape((-1, width), name="tokens")(x)
    x = TokensWithPlaces(name="places")(x)
    for number in range(depth):
        # Linear in depth, as in Huang et al. 2016: the first block always stays.
        drop = spec.stochastic_depth * number / max(depth - 1, 1)
        x = _block(x, width, heads, f"block{number}", drop)
    x = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    features = x[:, 0] if spec.pooling is None else pool(x[:, 1:], spec.pooling)
    return keras.Model(pixels, add_head(features, num_classes, spec), name="vit")


def _block(x: keras.KerasTensor, width: int, heads: int, name: str, drop: float) -> keras.KerasTensor:
    """Self-attention and a hidden layer four times as wide, each normalised before and added after.

    In training each is left out with probability `drop`, for each image by itself.
    """
    y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    y = keras.layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(y, y)
    x = add_residual(x, y, drop, f"{name}_add1")
    y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    y = keras.layers.Dense(4 * width, activation="gelu", name=f"{name}_hidden")(y)
    y = keras.layers.Dense(width, name=f"{name}_out")(y)
    return add_residual(x, y, drop, f"{name}_add2")
