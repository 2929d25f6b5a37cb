"""Images of CIFAR's size from records to batches: Convoy's pipeline against naive tf.data and NumPy alone.

    python -m benchmarks.small_images [--rounds 7] [--seconds 1] [--images 50000] [--json FILE]

32x32 colour, pad-and-crop by 4 and flip, batches of 128. `naive` keeps decoded images and maps one by one as tutorials
do; `parallel` is the same with AUTOTUNE and prefetch; `numpy` has all pixels in one array and only indexes it.
Convoy keeps a split of this size decoded in memory (`data.memory_bytes`). Batches of tf.data are taken as in training,
eight in one call of a compiled loop. One process for each side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.peers import small_images
from benchmarks.report import REPOSITORY, Figures, Goal, interleave, save, show
from conf.schema import AugmentSpec, DataSpec, JobSpec, SplitSpec
from data_pipeline.allocator import keep_freed_memory
from data_pipeline.manifest import load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset
from data_pipeline.prepare import prepare

BATCH = 128
BATCHES_A_CALL = 8
GOALS = [
    Goal("convoy", "naive", "images_per_cpu_s", 4.0),
    Goal("convoy", "numpy", "images_per_cpu_s", 0.85),
]


def convoy(folder: str) -> Iterator[Any]:
    """Our side, in a process that is set up as a worker is."""
    keep_freed_memory()
    data = DataSpec(augment=AugmentSpec(flip=True, pad_crop=4))
    return iter(training_dataset(load_manifest(folder), data, 0, BatchShape(BATCH), range(1), 32))


SIDES: dict[str, Callable[[str], Iterator[Any]]] = {
    "convoy": convoy,
    "naive": small_images.naive,
    "parallel": small_images.parallel,
    "numpy": small_images.numpy_alone,
}


def taker(batches: Iterator[Any]) -> Callable[[], object]:
    """Takes BATCHES_A_CALL batches: tf.data's in a compiled loop, whose answer depends on every batch."""
    if not isinstance(batches, tf.data.Iterator):
        # None is kept: the next one finds its memory.
        return lambda: deque(islice(batches, BATCHES_A_CALL), maxlen=0)

    def corner(part: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.reshape(part, [-1])[0], tf.float32)

    @tf.function
    def loop() -> tf.Tensor:
        total = tf.constant(0.0)
        for _ in tf.range(BATCHES_A_CALL):
            total += tf.add_n([corner(part) for part in tf.nest.flatten(next(batches))])
        return total

    return lambda: loop().numpy()


def measure(side: str, folder: str, seconds: float) -> Figures:
    """Images a second of one side, in this process, after as long to warm up."""
    take = taker(SIDES[side](folder))
    take()
    for measured in (False, True):
        count, started, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < started + seconds:
            take()
            count += BATCHES_A_CALL * BATCH
        if measured:
            spent, used = time.perf_counter() - started, time.process_time() - cpu
    return {"images_per_s": count / spent, "images_per_cpu_s": count / used}


def measure_apart(side: str, folder: str, seconds: float) -> Figures:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.small_images", "--side", side, "--folder", folder]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    answer = subprocess.run(
        [*command, "--seconds", str(seconds)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if answer.returncode:
        raise RuntimeError((answer.stderr.splitlines() or ["it ended without a word"])[-1])
    figures: Figures = json.loads(answer.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Prepare the images, measure every side in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(measure(asked.side, asked.folder, asked.seconds)), flush=True)
        os._exit(0)  # TensorFlow's threads may wait for the interpreter
    with tempfile.TemporaryDirectory() as folder:
        split, drawn = SplitSpec(1.0, 0.0, 0.0), {"num_examples": asked.images, "image_size": 32}
        prepare(JobSpec(data=DataSpec(name="synthetic", split=split, num_shards=4, out=folder, **drawn)))
        sides = {side: partial(measure_apart, side, folder, asked.seconds) for side in SIDES}
        results = interleave(sides, asked.rounds)
    show(f"images of 32x32, batches of {BATCH}", results, GOALS)
    save(asked.json, results)


if __name__ == "__main__":
    main()
