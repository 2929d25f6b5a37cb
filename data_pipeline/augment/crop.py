"""Random resized crop: which window of the stored image is decoded."""

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import AREA, CROP_X, CROP_Y, RATIO


def crop_window(shape: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The window (y, x, height, width) of a random resized crop from an image of `shape` (height, width).

    The area is uniform in [crop_min_area, 1] of the image and the ratio log-uniform in [crop_min_ratio,
    crop_max_ratio], narrowed to the ratios at which a window of that area fits into the image (so nothing is ever drawn
    again).
    """
    height, width = tf.unstack(tf.cast(shape, tf.float32))
    area = height * width * (augment.crop_min_area + (1 - augment.crop_min_area) * draws[AREA])
    narrowest, widest = area / (height * height), width * width / area
    low = tf.clip_by_value(augment.crop_min_ratio, narrowest, widest)
    high = tf.clip_by_value(augment.crop_max_ratio, narrowest, widest)
    ratio = tf.exp(tf.math.log(low) + draws[RATIO] * (tf.math.log(high) - tf.math.log(low)))
    crop_height = tf.clip_by_value(tf.round(tf.sqrt(area / ratio)), 1.0, height)
    crop_width = tf.clip_by_value(tf.round(tf.sqrt(area * ratio)), 1.0, width)
    y = tf.floor(draws[CROP_Y] * (height - crop_height + 1))
    x = tf.floor(draws[CROP_X] * (width - crop_width + 1))
    return tf.cast(tf.stack([y, x, crop_height, crop_width]), tf.int32)
