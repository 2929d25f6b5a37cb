"""Random changes of training images. What is drawn comes from `order.draws`, so from (seed, epoch, example) alone.

Each change exists for one image and, where that pays, for a whole batch of small ones: the same pixels either way.
"""

import tensorflow as tf

from conf.schema import AugmentSpec

#: Columns of the draws. New ones go to the end, so that old jobs keep their pictures.
FLIP, PAD_Y, PAD_X, AREA, RATIO, CROP_Y, CROP_X, BRIGHTNESS, CONTRAST = range(9)
NUM_DRAWS = 9

_RATIOS = (3 / 4, 4 / 3)  # narrowest and widest random resized crop


def is_active(augment: AugmentSpec) -> bool:
    """Whether anything is changed at all."""
    changes = (augment.flip, augment.pad_crop, augment.brightness, augment.contrast, augment.crop_min_area < 1)
    return any(changes)


def crop_window(shape: tf.Tensor, draws: tf.Tensor, min_area: float) -> tf.Tensor:
    """The window (y, x, height, width) of a random resized crop from an image of `shape` (height, width).

    The area is uniform in [min_area, 1] of the image and the ratio log-uniform in 3/4..4/3, narrowed to the ratios at
    which a window of that area fits into the image (so nothing is ever drawn again).
    """
    height, width = tf.unstack(tf.cast(shape, tf.float32))
    area = height * width * (min_area + (1 - min_area) * draws[AREA])
    narrowest, widest = area / (height * height), width * width / area
    low = tf.clip_by_value(_RATIOS[0], narrowest, widest)
    high = tf.clip_by_value(_RATIOS[1], narrowest, widest)
    ratio = tf.exp(tf.math.log(low) + draws[RATIO] * (tf.math.log(high) - tf.math.log(low)))
    crop_height = tf.clip_by_value(tf.round(tf.sqrt(area / ratio)), 1.0, height)
    crop_width = tf.clip_by_value(tf.round(tf.sqrt(area * ratio)), 1.0, width)
    y = tf.floor(draws[CROP_Y] * (height - crop_height + 1))
    x = tf.floor(draws[CROP_X] * (width - crop_width + 1))
    return tf.cast(tf.stack([y, x, crop_height, crop_width]), tf.int32)


def augment_image(image: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """One image [height, width, channels], float32, changed after it has its size."""
    shape = image.shape
    if augment.pad_crop:
        pad = augment.pad_crop
        y, x = (tf.cast(tf.floor(draws[column] * (2 * pad + 1)), tf.int32) for column in (PAD_Y, PAD_X))
        padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], "REFLECT")
        image = tf.ensure_shape(padded[y : y + shape[0], x : x + shape[1]], shape)
    if augment.flip:
        image = tf.cond(draws[FLIP] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    if augment.brightness or augment.contrast:
        image = _change_colours(image[None], draws[None], augment)[0]
    return image


def augment_batch(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """The same for a batch [n, height, width, channels] of any pixel type; float32."""
    if augment.pad_crop or augment.flip:
        images = _move(images, draws, augment)
    return _change_colours(tf.cast(images, tf.float32), draws, augment)


def _move(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    """Pad, crop and flip at once: which row and column each new pixel comes from."""
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


def _change_colours(images: tf.Tensor, draws: tf.Tensor, augment: AugmentSpec) -> tf.Tensor:
    if not (augment.brightness or augment.contrast):
        return images
    if augment.brightness:
        images += _per_image((2 * draws[:, BRIGHTNESS] - 1) * (255 * augment.brightness))
    if augment.contrast:
        factor = 1 - augment.contrast + 2 * augment.contrast * draws[:, CONTRAST]
        mean = tf.reduce_mean(images, [1, 2], keepdims=True)
        images = (images - mean) * _per_image(factor) + mean
    return tf.clip_by_value(images, 0.0, 255.0)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, 1, 1, 1])
