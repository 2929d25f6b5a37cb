"""Changes that only move pixels: pad and crop, flip. For one image, and for a batch of small ones at once."""

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import FLIP, PAD_X, PAD_Y


def shift_image(image: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """One image [height, width, channels], cropped out of its reflected border, then mirrored."""
    shape = image.shape
    if augment.pad_crop:
        pad = augment.pad_crop
        y, x = (tf.cast(tf.floor(draws[column] * (2 * pad + 1)), tf.int32) for column in (PAD_Y, PAD_X))
        padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], "REFLECT")
        image = tf.ensure_shape(padded[y : y + shape[0], x : x + shape[1]], shape)
    if augment.flip:
        image = tf.cond(draws[FLIP] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return image


def shift_batch(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The same for a batch [n, height, width, channels]: which row and column each new pixel comes from."""
    if not (augment.pad_crop or augment.flip):
        return images
    count, height, width = images.shape[0], images.shape[1], images.shape[2]
    rows = _shifted(height, draws[:, PAD_Y], augment.pad_crop)
    columns = _shifted(width, draws[:, PAD_X], augment.pad_crop)
    if augment.flip:
        columns = tf.where(draws[:, FLIP, None] < 0.5, columns[:, ::-1], columns)
    cells = (tf.range(count)[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    pixels = tf.gather(tf.reshape(images, [count * height * width, -1]), cells)
    return tf.ensure_shape(pixels, images.shape)


def _shifted(side: int, draws: tf.Tensor, pad: int) -> tf.Tensor:
    """The source row (or column) of each new one, with a reflected border of `pad`: [n, side]."""
    offset = tf.cast(tf.floor(draws * (2 * pad + 1)), tf.int32) - pad
    places = tf.abs(tf.range(side)[None, :] + offset[:, None])
    return (side - 1) - tf.abs((side - 1) - places)
