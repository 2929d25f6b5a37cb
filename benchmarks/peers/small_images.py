"""Small images without Convoy: tf.data image by image, and NumPy with everything in one array."""

from pathlib import Path

import numpy as np
import tensorflow as tf

BATCH = 128
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


def _parse(record):
    parsed = tf.io.parse_single_example(record, FEATURES)
    return tf.ensure_shape(tf.io.decode_png(parsed["image/encoded"], 3), [32, 32, 3]), parsed["image/class/label"]


def _change(image, label):
    padded = tf.image.resize_with_crop_or_pad(tf.cast(image, tf.float32), 40, 40)
    return tf.image.random_flip_left_right(tf.image.random_crop(padded, [32, 32, 3])), label


def _records(folder):
    return tf.data.TFRecordDataset(sorted(map(str, Path(folder).glob("*.tfrecord"))))


def naive(folder):
    """One image after the other."""
    return iter(_records(folder).map(_parse).cache().repeat().shuffle(10_000).map(_change).batch(BATCH))


def parallel(folder):
    """The same with AUTOTUNE and prefetch."""
    tune = tf.data.AUTOTUNE
    images = _records(folder).map(_parse, tune).cache().repeat().shuffle(10_000).map(_change, tune)
    return iter(images.batch(BATCH).prefetch(tune))


def numpy_alone(folder):
    """A permutation, windows of the padded pixels, half of them mirrored, float32: nothing can be left out."""
    parts = list(_records(folder).map(_parse).batch(1000).as_numpy_iterator())
    pixels, labels = (np.concatenate(column) for column in zip(*parts))
    random, padded = np.random.default_rng(1), np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (1, 2)).transpose(0, 1, 2, 4, 5, 3)
    while True:
        order = random.permutation(len(pixels))
        for start in range(0, len(pixels) - BATCH + 1, BATCH):
            own = order[start : start + BATCH]
            batch = windows[own, random.integers(0, 9, BATCH), random.integers(0, 9, BATCH)]
            mirrored = random.random(BATCH) < 0.5
            batch[mirrored] = batch[mirrored][:, :, ::-1]
            yield batch.astype(np.float32), labels[own]
