"""Rotation, translation, shear and zoom in one warp: each pixel is looked up once, bilinearly.

What lies beyond an image's border is its mirror picture, the border pixel included (NumPy's `symmetric`).
"""

import math

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import ROTATION, SHEAR, SHIFT_X, SHIFT_Y, ZOOM


def warp(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The images [n, height, width, channels], float32, sheared, zoomed, rotated about their centre, then shifted."""
    draws = tf.cast(draws, tf.float64)
    height, width = images.shape[1], images.shape[2]
    angle, slant = (
        _either_way(draws[:, column], math.radians(degrees))
        for column, degrees in ((ROTATION, augment.rotation), (SHEAR, augment.shear))
    )
    zoom = 1 + _either_way(draws[:, ZOOM], augment.zoom)
    shift_y = _either_way(draws[:, SHIFT_Y], augment.translation * height)
    shift_x = _either_way(draws[:, SHIFT_X], augment.translation * width)
    cos, sin, slope = tf.cos(angle) / zoom, tf.sin(angle) / zoom, tf.tan(slant)
    # The inverse of rotation * zoom * shear, row by row.
    rows = (cos + slope * sin, sin - slope * cos, -sin, cos)
    return look_up(images, rows, shift_y, shift_x)


def look_up(
    images: tf.Tensor, rows: tuple[tf.Tensor, ...], shift_y: tf.Tensor | float = 0.0, shift_x: tf.Tensor | float = 0.0
) -> tf.Tensor:
    """The images with the pixel at p, counted from the centre, taken from rows * (p - shift) of the old picture.

    `rows` are the four numbers of a 2x2 matrix for (x, y), each [n]; the shifts are [n], in pixels. float64.
    """
    a, b, c, d = rows
    height, width = images.shape[1], images.shape[2]
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = middle_y + shift_y, middle_x + shift_x
    nothing = tf.zeros_like(a)
    matrix = [a, b, middle_x - a * x - b * y, c, d, middle_y - c * x - d * y, nothing, nothing]
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.cast(tf.stack(matrix, 1), tf.float32),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return tf.ensure_shape(warped, images.shape)


def _either_way(draws: tf.Tensor, most: float) -> tf.Tensor:
    """From [0, 1) to [-most, most)."""
    return (2 * draws - 1) * most
