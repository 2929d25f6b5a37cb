"""RandAugment (Cubuk et al. 2020): some of fourteen changes, drawn for each image, all of one strength.

The changes and their strengths are those of torchvision's RandAugment on Pillow images: magnitude 0..30, and half of
the images get a change with a sign the other way. What a geometric change brings in from outside is the image's mirror
picture, instead of black. Images are float32 [n, height, width, channels] in 0..255; `level` is float64 [n] in -1..1.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.colour import blend, luma, per_image, saturate
from data_pipeline.augment.columns import RANDAUGMENT
from data_pipeline.augment.warp import look_up

#: The magnitude at which a change has its full strength.
MOST = 30

_TURN = math.radians(30)
_SHEAR = 0.3
_SHIFT = 150 / 331  # of the side
_ENHANCE = 0.9
_LEAST_BITS = 4

Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def randaugment(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The images after `augment.randaugment_ops` changes, each drawn for each image by itself."""
    for number in range(augment.randaugment_ops):
        drawn = tf.cast(tf.floor(draws[:, RANDAUGMENT + number] * (2 * len(CHANGES))), tf.int32)
        sign = 1 - 2 * tf.cast(drawn % 2, tf.float64)
        images = _changed(images, drawn // 2, sign * (augment.randaugment_magnitude / MOST))
    return images


def _changed(images: tf.Tensor, which: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Each image after the change of its number; those with the same change are changed together."""
    if images.shape[0] == 1:
        branches = [_bound(change, images, level) for change in CHANGES]
        return tf.ensure_shape(tf.switch_case(which[0], branches), images.shape)
    groups = tf.dynamic_partition(tf.range(images.shape[0]), which, len(CHANGES))
    parts = [
        change(tf.gather(images, group), tf.gather(level, group)) for change, group in zip(CHANGES, groups, strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(groups, parts), images.shape)


def _bound(change: Change, images: tf.Tensor, level: tf.Tensor) -> Callable[[], tf.Tensor]:
    return lambda: change(images, level)


def _identity(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return images


def _autocontrast(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """The darkest pixel of each channel becomes 0 and the brightest 255; a channel of one value stays."""
    low, high = tf.reduce_min(images, [1, 2], True), tf.reduce_max(images, [1, 2], True)
    stretched = (images - low) * (255 / tf.maximum(high - low, 1.0))
    return tf.where(high - low >= 1, stretched, images)


def _equalize(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """As many pixels of each brightness, in each channel, by Pillow's integer table."""
    values = tf.transpose(_whole(images), [0, 3, 1, 2])
    shape = tf.shape(values)
    rows = shape[0] * shape[1]
    cells = tf.reshape(values, [rows, -1]) + 256 * tf.range(rows)[:, None]
    counts = tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(cells), cells, 256 * rows), [rows, 256])
    last = 255 - tf.argmax(tf.cast(counts[:, ::-1] > 0, tf.int32), 1, tf.int32)
    step = (tf.reduce_sum(counts, 1) - tf.gather(counts, last, batch_dims=1)) // 255
    before = tf.cumsum(counts, 1, exclusive=True)
    table = (before + step[:, None] // 2) // tf.maximum(step[:, None], 1)
    table = tf.where(step[:, None] > 0, tf.clip_by_value(table, 0, 255), tf.range(256))
    equal = tf.reshape(tf.gather(tf.reshape(table, [-1]), cells), shape)
    return tf.cast(tf.transpose(equal, [0, 2, 3, 1]), tf.float32)


def _rotate(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    cos, sin = tf.cos(level * _TURN), tf.sin(level * _TURN)
    return look_up(images, (cos, sin, -sin, cos))


def _solarize(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Pixels at or above a threshold are inverted: 255 at level 0, 0 at level 1."""
    # To the nearest half, so that float32 does not decide what a pixel on the threshold becomes.
    threshold = per_image(tf.round(510 * (1 - tf.abs(level))) / 2)
    return tf.where(images >= threshold, 255 - images, images)


def _saturation(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return saturate(images, 1 + _ENHANCE * level)


def _posterize(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Only the highest bits are kept: 8 at level 0, 4 at level 1."""
    dropped = tf.cast(tf.round((8 - _LEAST_BITS) * tf.abs(level)), tf.int32)[:, None, None, None]
    whole = _whole(images)
    return tf.cast(tf.bitwise.left_shift(tf.bitwise.right_shift(whole, dropped), dropped), tf.float32)


def _contrast(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return blend(tf.reduce_mean(luma(images), [1, 2], True), images, 1 + _ENHANCE * level)


def _brightness(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return blend(tf.zeros_like(images), images, 1 + _ENHANCE * level)


def _sharpness(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Away from or towards the image smoothed over 3x3 pixels, the middle one five times; the border stays."""
    if min(images.shape[1:3]) < 3:
        return images
    across = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    inner = images[:, 1:-1, 1:-1]
    smooth = (across[:, :-2] + across[:, 1:-1] + across[:, 2:] + 4 * inner) / 13
    sharp = blend(smooth, inner, 1 + _ENHANCE * level)
    middle = tf.concat([images[:, 1:-1, :1], sharp, images[:, 1:-1, -1:]], 2)
    return tf.concat([images[:, :1], middle, images[:, -1:]], 1)


def _shear_x(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    one = tf.ones_like(level)
    return look_up(images, (one, _SHEAR * level, 0 * one, one))


def _shear_y(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    one = tf.ones_like(level)
    return look_up(images, (one, 0 * one, _SHEAR * level, one))


def _translate_x(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    one = tf.ones_like(level)
    return look_up(images, (one, 0 * one, 0 * one, one), shift_x=level * (_SHIFT * images.shape[2]))


def _translate_y(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    one = tf.ones_like(level)
    return look_up(images, (one, 0 * one, 0 * one, one), shift_y=level * (_SHIFT * images.shape[1]))


def _whole(images: tf.Tensor) -> tf.Tensor:
    """Pixels as whole numbers 0..255, for changes that are made by table or by bit."""
    return tf.cast(tf.round(tf.clip_by_value(images, 0.0, 255.0)), tf.int32)


#: In this order, which is part of what a draw means.
CHANGES: tuple[Change, ...] = (
    _identity,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
    _brightness,
    _saturation,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)
