"""tf.data scripts over the same TFRecords: `naive` as in tutorials, `tuned` by somebody who knows tf.data well.

What a random resized crop costs is the area of its windows. TensorFlow's own operation draws their height uniformly, so
that they cover 0.37 of photographs of 500x375; where the area is drawn uniformly, as in the paper that crops come from,
it is 0.42 with Convoy's law and 0.43 with torchvision's, which DALI and the other peers follow. So `tuned` takes its
windows from a table drawn by Convoy's law, and `tuned_tf` is the same script with TensorFlow's operation.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import CROP_X
from data_pipeline.augment.crop import crop_windows

BATCH = 64
_TABLE = 1 << 16
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


def _tuned_image(size, window_of, record):
    parsed = tf.io.parse_single_example(record, FEATURES)
    encoded = parsed["image/encoded"]
    window = window_of(tf.io.extract_jpeg_shape(encoded))
    image = tf.io.decode_and_crop_jpeg(encoded, window, 3, dct_method="INTEGER_FAST", fancy_upscaling=False)
    image = tf.ensure_shape(tf.image.resize(image, [size, size]), [size, size, 3])
    return tf.image.random_flip_left_right(image), parsed["image/class/label"]


def _window_of_tf(shape):
    begin, extent = _window(shape)
    return tf.stack([begin[0], begin[1], extent[0], extent[1]])


def _window_of_table(table, shape):
    return table[tf.random.uniform([], 0, _TABLE, tf.int32)]


def _table(folder: Path):
    """Windows (y, x, height, width) for the size that all photographs have."""
    record = next(iter(tf.data.TFRecordDataset(_files(folder)[0])))
    encoded = tf.io.parse_single_example(record, FEATURES)["image/encoded"]
    height, width, _ = (tf.fill([_TABLE], side) for side in tf.io.extract_jpeg_shape(encoded).numpy())
    draws = tf.constant(np.random.default_rng(0).random((_TABLE, CROP_X + 1), np.float32))
    return crop_windows(height, width, draws, AugmentSpec(crop_min_area=0.08))


def tuned(folder: Path, size: int, window_of=None):
    """Interleaved files, partial decoding, flip per image, a private pool, any order."""
    window_of = window_of or partial(_window_of_table, _table(folder))
    options = tf.data.Options()
    options.deterministic = False
    options.threading.max_intra_op_parallelism = 1
    options.threading.private_threadpool_size = len(os.sched_getaffinity(0))
    files = tf.data.Dataset.from_tensor_slices(_files(folder)).repeat()
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE)
    images = records.shuffle(1000).map(partial(_tuned_image, size, window_of), tf.data.AUTOTUNE)
    return iter(images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE).with_options(options))


def tuned_tf(folder: Path, size: int):
    """The same with TensorFlow's own, smaller windows."""
    return tuned(folder, size, _window_of_tf)


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
