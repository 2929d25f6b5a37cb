"""Stored images to pixels 0..255, and which size they get.

What `decode` and `decode_crop` take is what `parse` and `image_of` found: the bytes of a file, or pixels of a set that
stores those.
"""

from typing import NamedTuple

import tensorflow as tf

from conf import families
from conf.errors import BadSpec
from conf.schema import DataSpec, Encoding, ModelSpec
from data_pipeline.manifest import Manifest
from data_pipeline.records import ENCODED, FORMAT, HEIGHT, LABEL, RAW, WEIGHT, WIDTH

#: Up to this shrinking plain bilinear interpolation does; beyond it, it would alias and is filtered, which is slower.
SHRINKS_WELL = 3.0
#: Red, green and blue in grey, as JPEG and Pillow have it: ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def resolve_image_size(data: DataSpec, model: ModelSpec, manifest: Manifest) -> int:
    """The side of the square images that the model sees.

    `data.image_size` if given; else the model's own, but no larger than the stored images and never below what the
    model can take; a model of no particular size takes the stored one.
    """
    smallest, stored = families.min_image_size(model), manifest.images.largest_side
    designed_for = families.image_size(model)
    if data.image_size is not None:
        if data.image_size < smallest:
            law = f"{model.name} needs images of {smallest} pixels or more"
            raise BadSpec.of("data.image_size", data.image_size, law, f"data.image_size={smallest}")
        return data.image_size
    if designed_for is not None:
        return max(smallest, min(designed_for, stored))
    if not manifest.images.uniform:
        sizes = f"{manifest.images.min_height}x{manifest.images.min_width} to "
        sizes += f"{manifest.images.max_height}x{manifest.images.max_width}"
        law = f"the stored images differ in size ({sizes}) and {model.name} has no size of its own"
        raise BadSpec.of("data.image_size", None, law, "say which: data.image_size=PIXELS")
    return max(smallest, stored)


class Stored(NamedTuple):
    """What is stored of an example, or, with one dimension more, of some."""

    encoded: tf.Tensor  # string: the bytes of a file, or pixels
    label: tf.Tensor  # int32
    weight: tf.Tensor  # float32
    height: tf.Tensor  # int64, as for width: of the image
    width: tf.Tensor
    has_pixels: tf.Tensor  # bool: whether `encoded` is pixels


class StoredPixels(NamedTuple):
    """What is stored of some examples whose pixels are in one array, [height, width, channels] from `begin` on."""

    data: tf.Tensor  # uint8 [bytes]
    begin: tf.Tensor  # int64 [n], as for height and width
    label: tf.Tensor  # int32
    weight: tf.Tensor  # float32
    height: tf.Tensor
    width: tf.Tensor


def parse(records: tf.Tensor) -> Stored:
    """Serialized Examples, of any shape, to what they hold: the same shape. Many at once cost much less than each."""
    features = {
        ENCODED: tf.io.FixedLenFeature([], tf.string),
        LABEL: tf.io.FixedLenFeature([], tf.int64),
        WEIGHT: tf.io.FixedLenFeature([], tf.float32, 1.0),
        HEIGHT: tf.io.FixedLenFeature([], tf.int64),
        WIDTH: tf.io.FixedLenFeature([], tf.int64),
        FORMAT: tf.io.FixedLenFeature([], tf.string),
    }
    found = tf.io.parse_example(records, features)
    label, has_pixels = tf.cast(found[LABEL], tf.int32), found[FORMAT] == RAW
    return Stored(found[ENCODED], label, found[WEIGHT], found[HEIGHT], found[WIDTH], has_pixels)


def image_of(stored: Stored, encoding: Encoding) -> tf.Tensor:
    """What `decode` and `decode_crop` take, of one example: the bytes of a file, or uint8 [height, width, channels].

    Where a set stores pixels, what takes the place of a corrupt record is black.
    """
    if encoding is Encoding.files:
        return stored.encoded
    pixels = tf.cond(
        stored.has_pixels,
        lambda: tf.io.decode_raw(stored.encoded, tf.uint8),
        lambda: tf.zeros([stored.height * stored.width], tf.uint8),
    )
    return tf.reshape(pixels, [stored.height, stored.width, -1])


def decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """The whole image as uint8 [height, width, channels]."""
    if encoded.dtype == tf.uint8:
        return _with_channels(encoded, channels)
    # Despite its name the kernel reads PNG and the first frame of a GIF as well.
    return tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE")


def decode_crop(encoded: tf.Tensor, window: tf.Tensor, channels: int) -> tf.Tensor:
    """The pixels in `window` (y, x, height, width); of a JPEG nothing else is decoded."""

    def cut(pixels: tf.Tensor) -> tf.Tensor:
        y, x, height, width = tf.unstack(window)
        return pixels[y : y + height, x : x + width]

    if encoded.dtype == tf.uint8:
        return _with_channels(cut(encoded), channels)

    def crop_jpeg() -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(encoded, window, channels, dct_method="INTEGER_ACCURATE")

    return tf.cond(tf.io.is_jpeg(encoded), crop_jpeg, lambda: cut(decode(encoded, channels)))


def _with_channels(pixels: tf.Tensor, channels: int) -> tf.Tensor:
    """Grey pixels as colour, or the other way round; 0 leaves them as they are."""
    if channels == 0:
        return pixels
    stored = tf.shape(pixels)[2]

    def changed() -> tf.Tensor:
        if channels == 3:
            return tf.tile(pixels, [1, 1, 3])
        grey = tf.tensordot(tf.cast(pixels, tf.float32), tf.constant(_LUMA), 1)
        return tf.cast(tf.round(grey), tf.uint8)[:, :, None]

    found = tf.cond(stored == channels, lambda: pixels, changed)
    return tf.ensure_shape(found, [None, None, channels])


def resize(image: tf.Tensor, side: int) -> tf.Tensor:
    """The image as float32 [side, side, channels], bilinear; filtered first when it shrinks by much."""
    shape = tf.shape(image)[:2]

    def changed() -> tf.Tensor:
        shrinks = tf.cast(tf.reduce_max(shape), tf.float32) > SHRINKS_WELL * side
        # The kernel computes in float32 anyway, and is a seventh faster where its input is: the same bits.
        pixels = tf.cast(image, tf.float32)
        filtered = lambda: tf.image.resize(pixels, [side, side], antialias=True)  # noqa: E731
        return tf.cond(shrinks, filtered, lambda: tf.image.resize(pixels, [side, side]))

    resized = tf.cond(tf.reduce_all(shape == side), lambda: tf.cast(image, tf.float32), changed)
    return tf.ensure_shape(resized, [side, side, image.shape[2]])
