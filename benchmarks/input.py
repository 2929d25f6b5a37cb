"""Photographs from shards to batches: Convoy's pipeline, in its exact order, against tf.data scripts.

    python -m benchmarks.input [--rounds 3] [--seconds 5] [--images 600] [--size 224] [--json FILE]

JPEGs of 500x375 (cut from scikit-learn's two sample photographs, quality 95), random resized crop to SIZE and flip, in
batches of 64. `tuned` is what somebody writes by hand who knows tf.data well, in an arbitrary order; `naive` what the
tutorials do. Each side is a process of its own; `images_per_cpu_s` does not depend on who else uses the machine.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.report import REPOSITORY, Figures, Goal, interleave, save, show
from conf.schema import AugmentSpec, DataSpec, JobSpec, SplitSpec
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset
from data_pipeline.prepare import prepare

BATCH = 64
SIDES = ("convoy", "tuned", "naive")
GOALS = [
    Goal("convoy", "tuned", "images_per_cpu_s", 1.0),
    Goal("convoy", "naive", "images_per_s", 2.5),
]
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


def write_photographs(folder: Path, count: int) -> None:
    """`count` different JPEGs of 500x375, in two classes."""
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for number in range(count):
        width, height = (round(side * random.uniform(0.78, 1)) for side in (640, 427))
        cut = photographs[number % 2].crop((640 - width, 427 - height, 640, 427)).resize((500, 375))
        out = io.BytesIO()
        cut.save(out, "JPEG", quality=95)
        path = folder / f"class_{number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())


def convoy(manifest: Manifest, size: int) -> tf.data.Dataset:
    """Our side."""
    data = DataSpec(augment=AugmentSpec(flip=True, crop_min_area=0.08))
    return training_dataset(manifest, data, 0, BatchShape(BATCH), range(1), size)


def _window(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        use_image_if_no_bounding_boxes=True,
        max_attempts=10,
    )
    return begin, extent


def _tuned_image(size: int, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = tf.io.parse_single_example(record, FEATURES)
    encoded = parsed["image/encoded"]
    begin, extent = _window(tf.io.extract_jpeg_shape(encoded))
    window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
    image = tf.io.decode_and_crop_jpeg(encoded, window, 3, dct_method="INTEGER_FAST", fancy_upscaling=False)
    image = tf.ensure_shape(tf.image.resize(image, [size, size]), [size, size, 3])
    return tf.image.random_flip_left_right(image), parsed["image/class/label"]


def tuned(manifest: Manifest, size: int) -> tf.data.Dataset:
    """Interleaved files, partial decoding, flip per image, a private pool, any order."""
    options = tf.data.Options()
    options.deterministic = False
    options.threading.max_intra_op_parallelism = 1
    options.threading.private_threadpool_size = len(os.sched_getaffinity(0))
    files = tf.data.Dataset.from_tensor_slices(_files(manifest)).repeat()
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE)
    images = records.shuffle(1000).map(partial(_tuned_image, size), tf.data.AUTOTUNE)
    return images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE).with_options(options)


def _naive_image(size: int, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = tf.io.parse_single_example(record, FEATURES)
    image = tf.image.convert_image_dtype(tf.io.decode_jpeg(parsed["image/encoded"], channels=3), tf.float32)
    image = tf.image.resize(tf.slice(image, *_window(tf.shape(image))), [size, size])
    return tf.image.random_flip_left_right(tf.ensure_shape(image, [size, size, 3])), parsed["image/class/label"]


def naive(manifest: Manifest, size: int) -> tf.data.Dataset:
    """Everything decoded, one image after the other."""
    records = tf.data.TFRecordDataset(_files(manifest)).repeat().shuffle(1000)
    return records.map(partial(_naive_image, size)).batch(BATCH)


def _files(manifest: Manifest) -> list[str]:
    return [str(Path(manifest.url, shard.name)) for shard in manifest.splits["train"].shards]


def measure(side: str, url: str, size: int, seconds: float) -> Figures:
    """Images a second of one side, in this process, after a third of the time to warm up."""
    batches = iter({"convoy": convoy, "tuned": tuned, "naive": naive}[side](load_manifest(url), size))
    warm = time.perf_counter() + seconds / 3
    while time.perf_counter() < warm:
        next(batches)
    count, started, cpu = 0, time.perf_counter(), _cpu_s()
    while time.perf_counter() < started + seconds:
        next(batches)
        count += BATCH
    return {"images_per_s": count / (time.perf_counter() - started), "images_per_cpu_s": count / (_cpu_s() - cpu)}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure_apart(side: str, url: str, size: int, seconds: float) -> Figures:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.input", "--side", side, "--url", url]
    command += ["--size", str(size), "--seconds", str(seconds)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    answer = subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    figures: Figures = json.loads(answer.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Prepare the photographs, measure every side in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        sys.stdout.write(json.dumps(measure(asked.side, asked.url, asked.size, asked.seconds)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder, "photographs"), asked.images)
        split = SplitSpec(1.0, 0.0, 0.0)
        data = DataSpec(name="folder", path=f"{folder}/photographs", out=f"{folder}/set", split=split, num_shards=4)
        prepare(JobSpec(data=data))
        sides = {side: partial(measure_apart, side, f"{folder}/set", asked.size, asked.seconds) for side in SIDES}
        results = interleave(sides, asked.rounds)
    show(f"photographs to {asked.size} pixels, batches of {BATCH}", results, GOALS)
    save(asked.json, results)


if __name__ == "__main__":
    main()
