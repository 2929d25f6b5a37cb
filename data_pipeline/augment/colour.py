"""Brightness, contrast, saturation and hue, in this order. Images are float32 [n, height, width, channels], 0..255."""

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import BRIGHTNESS, CONTRAST, HUE, SATURATION

#: How bright red, green and blue look (ITU-R 601-2), as Pillow makes images grey.
LUMA = (0.299, 0.587, 0.114)


def change_colours(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The images with what `augment` asks of brightness, contrast, saturation and hue."""
    images = _brightness_and_contrast(images, draws, augment)
    draws = tf.cast(draws, tf.float64)
    if augment.saturation:
        images = saturate(images, 1 - augment.saturation + 2 * augment.saturation * draws[:, SATURATION])
    if augment.hue:
        images = turn_hue(images, (2 * draws[:, HUE] - 1) * augment.hue)
    return images


def _brightness_and_contrast(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    if not (augment.brightness or augment.contrast):
        return images
    if augment.brightness:
        images += per_image((2 * draws[:, BRIGHTNESS] - 1) * (255 * augment.brightness))
    if augment.contrast:
        factor = 1 - augment.contrast + 2 * augment.contrast * draws[:, CONTRAST]
        mean = tf.reduce_mean(images, [1, 2], keepdims=True)
        images = (images - mean) * per_image(factor) + mean
    return tf.clip_by_value(images, 0.0, 255.0)


def saturate(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Away from grey (factor above 1) or towards it (0 is grey), as Pillow's ImageEnhance.Color; grey images stay."""
    if images.shape[-1] == 1:
        return images
    return blend(luma(images), images, factors)


def turn_hue(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Every colour moved on round the circle of hues by `turns` (1 is once round); grey images stay."""
    if images.shape[-1] == 1:
        return images
    hue_alone = tf.constant([1.0, 0.0, 0.0])
    turned = tf.image.rgb_to_hsv(images) + per_image(turns) * hue_alone
    return tf.image.hsv_to_rgb(turned - tf.floor(turned) * hue_alone)


def luma(images: tf.Tensor) -> tf.Tensor:
    """The grey value of each pixel: [n, height, width, 1]."""
    if images.shape[-1] == 1:
        return images
    return tf.reduce_sum(images * tf.constant(LUMA), -1, keepdims=True)


def blend(least: tf.Tensor, images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """From `least` (factor 0) through the images (factor 1) and beyond, clipped to 0..255."""
    return tf.clip_by_value(least + (images - least) * per_image(factors), 0.0, 255.0)


def per_image(values: tf.Tensor) -> tf.Tensor:
    """A number for each image, to be used with its pixels: [n] -> float32 [n, 1, 1, 1]."""
    return tf.reshape(tf.cast(values, tf.float32), [-1, 1, 1, 1])
