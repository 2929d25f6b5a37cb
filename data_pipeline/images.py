"""Stored bytes to pixels 0..255, and which size they get."""

import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import DataSpec, ModelSpec
from data_pipeline.manifest import Manifest
from data_pipeline.records import ENCODED, LABEL, WEIGHT

#: Up to this shrinking plain bilinear interpolation does; beyond it, it would alias and is filtered, which is slower.
_SHRINKS_WELL = 3.0


def resolve_image_size(data: DataSpec, model: ModelSpec, manifest: Manifest) -> int:
    """The side of the square images that the model sees.

    `data.image_size` if given; else the model's own, but no larger than the stored images and never below what the
    model can take; a model of no particular size takes the stored one.
    """
    smallest, stored = model.min_image_size, manifest.images.largest_side
    if data.image_size is not None:
        if data.image_size < smallest:
            law = f"{model.name} needs images of {smallest} pixels or more"
            raise BadSpec.of("data.image_size", data.image_size, law, f"data.image_size={smallest}")
        return data.image_size
    if model.image_size is not None:
        return max(smallest, min(model.image_size, stored))
    if not manifest.images.uniform:
        sizes = f"{manifest.images.min_height}x{manifest.images.min_width} to "
        sizes += f"{manifest.images.max_height}x{manifest.images.max_width}"
        law = f"the stored images differ in size ({sizes}) and {model.name} has no size of its own"
        raise BadSpec.of("data.image_size", None, law, "say which: data.image_size=PIXELS")
    return max(smallest, stored)


def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Serialized Examples to (encoded image, label, weight); one, or a batch."""
    features = {
        ENCODED: tf.io.FixedLenFeature([], tf.string),
        LABEL: tf.io.FixedLenFeature([], tf.int64),
        WEIGHT: tf.io.FixedLenFeature([], tf.float32, 1.0),
    }
    parsed = tf.io.parse_example(records, features)
    return parsed[ENCODED], tf.cast(parsed[LABEL], tf.int32), parsed[WEIGHT]


def decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """The whole image as uint8 [height, width, channels]."""
    # Despite its name the kernel reads PNG and the first frame of a GIF as well.
    return tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE")


def decode_crop(encoded: tf.Tensor, window: tf.Tensor, channels: int) -> tf.Tensor:
    """The pixels in `window` (y, x, height, width); of a JPEG nothing else is decoded."""

    def crop() -> tf.Tensor:
        y, x, height, width = tf.unstack(window)
        return decode(encoded, channels)[y : y + height, x : x + width]

    def crop_jpeg() -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(encoded, window, channels, dct_method="INTEGER_ACCURATE")

    return tf.cond(tf.io.is_jpeg(encoded), crop_jpeg, crop)


def shape_of(encoded: tf.Tensor) -> tf.Tensor:
    """Height and width; read from a JPEG's header alone."""
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded)[:2],
        lambda: tf.shape(decode(encoded, 0))[:2],
    )


def resize(image: tf.Tensor, side: int) -> tf.Tensor:
    """The image as float32 [side, side, channels], bilinear; filtered first when it shrinks by much."""
    shape = tf.shape(image)[:2]

    def changed() -> tf.Tensor:
        shrinks = tf.cast(tf.reduce_max(shape), tf.float32) > _SHRINKS_WELL * side
        filtered = lambda: tf.image.resize(image, [side, side], antialias=True)  # noqa: E731
        return tf.cond(shrinks, filtered, lambda: tf.image.resize(image, [side, side]))

    resized = tf.cond(tf.reduce_all(shape == side), lambda: tf.cast(image, tf.float32), changed)
    return tf.ensure_shape(resized, [side, side, image.shape[2]])
