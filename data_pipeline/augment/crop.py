"""Random resized crop: which window of the stored image is decoded."""

import math

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import AREA, CROP_X, CROP_Y, RATIO


def crop_windows(height: tf.Tensor, width: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The windows (y, x, height, width) of random resized crops from images of these sizes; int32 [n, 4].

    `height` and `width` are [n], `draws` [n, columns]. The ratio is log-uniform in [crop_min_ratio, crop_max_ratio],
    and the area uniform in [crop_min_area, 1] of the image as far as a window of that ratio fits into it. So nothing
    is ever drawn again, and windows are nearly as large as where pairs are drawn until one fits.
    """
    height, width, draws = (tf.cast(each, tf.float64) for each in (height, width, draws))
    lowest, highest = math.log(augment.crop_min_ratio), math.log(augment.crop_max_ratio)
    ratio = tf.exp(lowest + draws[:, RATIO] * (highest - lowest))
    largest = tf.minimum(width / (height * ratio), height * ratio / width)  # 1 at most: one is the other's inverse
    smallest = tf.minimum(tf.constant(augment.crop_min_area, tf.float64), largest)
    area = height * width * (smallest + (largest - smallest) * draws[:, AREA])
    crop_height = tf.clip_by_value(tf.round(tf.sqrt(area / ratio)), 1.0, height)
    crop_width = tf.clip_by_value(tf.round(tf.sqrt(area * ratio)), 1.0, width)
    y = tf.floor(draws[:, CROP_Y] * (height - crop_height + 1))
    x = tf.floor(draws[:, CROP_X] * (width - crop_width + 1))
    return tf.cast(tf.stack([y, x, crop_height, crop_width], 1), tf.int32)
