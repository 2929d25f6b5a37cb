"""What a place in the order costs, and what a resume costs, however large the set and however far the step.

    python -m benchmarks.order [--rounds 9] [--json FILE]

`ns_per_place` of sets of 10^3 to 10^9 examples, whose order is computed place by place and never stored; then the
milliseconds from asking for a training dataset to its first batch, at step 10 and at the last step of an epoch, of the
same set. Both are CPU time of this process, so that others on the machine do not count.
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.report import Figures, Goal, interleave, save, show
from conf.schema import DataSpec, JobSpec, Remainder
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape, place_to_example, steps_per_epoch
from data_pipeline.pipeline import training_dataset
from data_pipeline.prepare import prepare

SIZES = tuple(10**power for power in range(3, 10))
PLACES = 8192
EXAMPLES = 20_000
BATCH = 32
GOALS = [
    Goal(f"{SIZES[-1]:,} examples", f"{SIZES[0]:,} examples", "ns_per_place", 1.5, at_most=True),
    Goal("last step", "step 10", "cpu_ms", 1.2, at_most=True),
]


def measure_places(num_examples: int) -> Figures:
    """The cost of places all over the order of a set of this size, in batches of thousands."""
    places = np.random.default_rng(0).integers(0, num_examples, PLACES)
    begun = time.process_time()
    for epoch in range(20):
        place_to_example(0, epoch, places, num_examples)
    return {"ns_per_place": (time.process_time() - begun) / (20 * PLACES) * 1e9}


def measure_resume(manifest: Manifest, step: int) -> Figures:
    """CPU until the first batch from `step` on is there and the buffers behind it are full."""
    data = DataSpec(memory_bytes=0, channels=3)
    begun = time.process_time()
    batches = iter(training_dataset(manifest, data, 0, BatchShape(BATCH), range(1), 32, step))
    next(batches)
    while True:  # until its buffers are full, so that every round counts the same work
        used = time.process_time()
        time.sleep(0.2)
        if time.process_time() - used < 0.002:
            return {"cpu_ms": 1e3 * (time.process_time() - begun)}


def main() -> None:
    """Measure all sides in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    sides = {f"{size:,} examples": partial(measure_places, size) for size in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        data = DataSpec(name="synthetic", num_examples=EXAMPLES, image_size=32, num_shards=8, out=folder)
        manifest = prepare(JobSpec(data=data))
        if manifest is None:
            raise RuntimeError("the set is not whole")
        last = steps_per_epoch(manifest.splits["train"].num_examples, BATCH, Remainder.drop) - 1
        for name, step in (("step 10", 10), ("last step", last), ("step 10,000,000", 10_000_000)):
            sides[name] = partial(measure_resume, manifest, step)
        interleave({"step 10": sides["step 10"]}, 1)  # warm-up
        results = interleave(sides, asked.rounds)
    show(f"places of the order, and the first batch from a step on ({last + 1} steps an epoch)", results, GOALS)
    save(asked.json, results)
    os._exit(0)  # TensorFlow's threads may wait for the interpreter


if __name__ == "__main__":
    main()
