"""tf.data scripts over the same TFRecords: `naive` as in tutorials, `tuned` by somebody who knows tf.data well."""

import os
from functools import partial
from pathlib import Path

import tensorflow as tf

BATCH = 64
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


def _window(shape):
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        use_image_if_no_bounding_boxes=True,
        max_attempts=10,
    )
    return begin, extent


def _tuned_image(size, record):
    parsed = tf.io.parse_single_example(record, FEATURES)
    encoded = parsed["image/encoded"]
    begin, extent = _window(tf.io.extract_jpeg_shape(encoded))
    window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
    image = tf.io.decode_and_crop_jpeg(encoded, window, 3, dct_method="INTEGER_FAST", fancy_upscaling=False)
    image = tf.ensure_shape(tf.image.resize(image, [size, size]), [size, size, 3])
    return tf.image.random_flip_left_right(image), parsed["image/class/label"]


def tuned(folder: Path, size: int):
    """Interleaved files, partial decoding, flip per image, a private pool, any order."""
    options = tf.data.Options()
    options.deterministic = False
    options.threading.max_intra_op_parallelism = 1
    options.threading.private_threadpool_size = len(os.sched_getaffinity(0))
    files = tf.data.Dataset.from_tensor_slices(_files(folder)).repeat()
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE)
    images = records.shuffle(1000).map(partial(_tuned_image, size), tf.data.AUTOTUNE)
    return iter(images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE).with_options(options))


def _naive_image(size, record):
    parsed = tf.io.parse_single_example(record, FEATURES)
    image = tf.image.convert_image_dtype(tf.io.decode_jpeg(parsed["image/encoded"], channels=3), tf.float32)
    image = tf.image.resize(tf.slice(image, *_window(tf.shape(image))), [size, size])
    return tf.image.random_flip_left_right(tf.ensure_shape(image, [size, size, 3])), parsed["image/class/label"]


def naive(folder: Path, size: int):
    """Everything decoded, one image after the other."""
    records = tf.data.TFRecordDataset(_files(folder)).repeat().shuffle(1000)
    return iter(records.map(partial(_naive_image, size)).batch(BATCH))


def _files(folder):
    return sorted(map(str, folder.glob("files/*.tfrecord")))
