"""Random changes of training images. What is drawn comes from `order.draws`, so from (seed, epoch, example) alone.

One file a kind of change. They come in this order: random resized crop (while decoding), pad and crop, flip, warp,
RandAugment, colours, erasing, and at last mixing. Each exists for one image and for a whole batch of small ones, which
there is several times faster: the same pixels either way, to rounding.

TensorFlow computes cosines and their like several at a time and the rest one by one, by another method, and the last
bit of the two differs; so would an image, by the size of its batch, and thereby by the number of replicas. Therefore
what is computed of the draws is float64, and becomes float32 when it meets the pixels.
"""

import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.colour import change_colours
from data_pipeline.augment.columns import changes_colour, warps
from data_pipeline.augment.erase import erase
from data_pipeline.augment.randaugment import randaugment
from data_pipeline.augment.shift import shift_batch, shift_image
from data_pipeline.augment.warp import warp


def augment_image(image: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """One image [height, width, channels], float32, changed after it has its size."""
    image = shift_image(image, draws, augment)
    if changes_pixels(augment):
        image = change_pixels(image[None], draws[None], augment)[0]
    return image


def augment_batch(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The same for a batch [n, height, width, channels] of any pixel type; float32."""
    images = tf.cast(shift_batch(images, draws, augment), tf.float32)
    return change_pixels(images, draws, augment)


def changes_pixels(augment: AugmentSpec) -> bool:
    """Whether anything is done that is more than moving pixels, mixing aside."""
    return bool(warps(augment) or augment.randaugment_ops or changes_colour(augment) or augment.erasing)


def change_pixels(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """What comes after pixels were moved, for a batch [n, height, width, channels], float32."""
    if warps(augment):
        images = warp(images, draws, augment)
    if augment.randaugment_ops:
        images = randaugment(images, draws, augment)
    images = change_colours(images, draws, augment)
    return erase(images, draws, augment) if augment.erasing else images
