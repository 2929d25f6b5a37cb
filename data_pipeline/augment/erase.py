"""Random erasing (Zhong et al. 2017): a rectangle of some images is covered with the image's mean colour."""

import math

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import ERASED, ERASED_AREA, ERASED_RATIO, ERASED_X, ERASED_Y

_AREAS = (0.02, 0.33)  # smallest and largest share of the image, as in the paper
_RATIOS = (0.3, 1 / 0.3)  # height to width


def erase(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The images [n, height, width, channels], float32, a share of `augment.erasing` of them with a covered rectangle.

    Its area is uniform in 0.02..0.33 of the image and its ratio log-uniform in 0.3..3.3; it always lies inside, so a
    long one is cut to the image's side.
    """
    draws = tf.cast(draws, tf.float64)
    height, width = images.shape[1], images.shape[2]
    area = (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * draws[:, ERASED_AREA]) * (height * width)
    low, high = (math.log(ratio) for ratio in _RATIOS)
    ratio = tf.exp(low + (high - low) * draws[:, ERASED_RATIO])
    tall = tf.clip_by_value(tf.round(tf.sqrt(area * ratio)), 1.0, float(height))
    wide = tf.clip_by_value(tf.round(tf.sqrt(area / ratio)), 1.0, float(width))
    y = tf.floor(draws[:, ERASED_Y] * (height - tall + 1))
    x = tf.floor(draws[:, ERASED_X] * (width - wide + 1))
    inside = rectangle(images.shape, y, x, y + tall, x + wide) & (draws[:, ERASED] < augment.erasing)[:, None, None]
    return tf.where(inside[..., None], tf.reduce_mean(images, [1, 2], keepdims=True), images)


def rectangle(shape: tf.TensorShape, top: tf.Tensor, left: tf.Tensor, bottom: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Which pixels of images [n, height, width, ...] lie in a rectangle of each: boolean [n, height, width].

    The sides are float64 [n]; bottom and right are not in it.
    """
    rows, columns = tf.range(shape[1], dtype=tf.float64), tf.range(shape[2], dtype=tf.float64)
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    in_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]
