"""The vision transformer of Dosovitskiy et al. (2020), in the sizes of Touvron et al. (2021)."""

from typing import Any, NamedTuple

import keras
from keras import ops

from conf import rules
from conf.errors import BadSpec
from conf.schema import ModelSpec
from trainer.models.head import add_head
from trainer.models.pixels import normalise, to_signed


class Size(NamedTuple):
    """Width of a token, number of blocks, attention heads a block."""

    width: int
    depth: int
    heads: int


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
    """A ViT of `size` ti, s or b over patches of `patch` x `patch` pixels."""
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
        x = _block(x, width, heads, f"block{number}")
    x = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    return keras.Model(pixels, add_head(x[:, 0], num_classes, spec.dropout), name="vit")


def _block(x: keras.KerasTensor, width: int, heads: int, name: str) -> keras.KerasTensor:
    """Self-attention and a hidden layer four times as wide, each normalised before and added after."""
    y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    y = keras.layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(y, y)
    x = keras.layers.Add(name=f"{name}_add1")([x, y])
    y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    y = keras.layers.Dense(4 * width, activation="gelu", name=f"{name}_hidden")(y)
    y = keras.layers.Dense(width, name=f"{name}_out")(y)
    return keras.layers.Add(name=f"{name}_add2")([x, y])
