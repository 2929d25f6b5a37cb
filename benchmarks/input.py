"""Photographs from disk to batches: Convoy's pipeline, in its exact order, against other loaders, tuned and not.

    python -m benchmarks.input [--rounds 5] [--seconds 3] [--size 224] [--sides convoy,tuned] [--json FILE]

JPEGs of 500x375, random resized crop to SIZE and flip, in batches of 64. `tuned` draws its windows as Convoy does,
`tuned_tf` is the same script with TensorFlow's operation, whose windows are an eighth smaller. Convoy reads JPEGs as
they are, made smaller at preparation (`data.max_side=256`), and stored decoded (`data.encoding=pixels` with it). Each
side is a process of its own and is measured for SECONDS of CPU; `images_per_cpu_s` counts its children too and hardly
depends on who else uses the machine, `images_per_s` does. `limit` is libjpeg-turbo alone, in C. A peer whose package is
not installed is named and left out.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.peers import loaders, tf_data
from benchmarks.photographs import write_photographs
from benchmarks.report import REPOSITORY, Figures, Goal, interleave, save, show
from conf.schema import AugmentSpec, DataSpec
from data_pipeline.allocator import keep_freed_memory
from data_pipeline.manifest import load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset

BATCH = 64
WARM_CPU_S = 2.0
MISSING = 3  # exit code of a side whose package is not there
GOALS = [
    Goal("convoy", "tuned", "images_per_cpu_s", 1.0),
    Goal("convoy", "tuned_tf", "images_per_cpu_s", 1.0),
    Goal("convoy", "naive", "images_per_s", 2.5),
    Goal("convoy", "dali", "images_per_cpu_s", 1.4),
    Goal("convoy", "grain", "images_per_cpu_s", 1.0),
    Goal("convoy", "webdataset", "images_per_cpu_s", 1.0),
    Goal("convoy max_side", "tuned", "images_per_cpu_s", 2.0),
    Goal("convoy pixels", "tuned", "images_per_cpu_s", 4.0),
]


def convoy(kind: str, folder: Path, size: int) -> Iterator[dict[str, tf.Tensor]]:
    """Our side, from one of the sets that Convoy prepared, in a process that is set up as a worker is."""
    keep_freed_memory()
    data = DataSpec(augment=AugmentSpec(flip=True, crop_min_area=0.08))
    return iter(training_dataset(load_manifest(f"{folder}/{kind}"), data, 0, BatchShape(BATCH), range(1), size))


SIDES: dict[str, Callable[[Path, int], Iterator[Any]]] = {
    "convoy": partial(convoy, "files"),
    "tuned": tf_data.tuned,
    "convoy max_side": partial(convoy, "small"),
    "convoy pixels": partial(convoy, "pixels"),
    "tuned_tf": tf_data.tuned_tf,
    "naive": tf_data.naive,
    "dali": loaders.dali,
    "grain": loaders.grain,
    "webdataset": loaders.web_dataset,
}


def measure(side: str, folder: Path, size: int, seconds: float) -> Figures:
    """Images a second of one side, in this process, when it is warm: graphs traced, buffers full, pools tuned."""
    batches = SIDES[side](folder, size)
    next(batches)
    cpu = _cpu_s()
    while _cpu_s() < cpu + WARM_CPU_S:
        next(batches)
    count, started, cpu = 0, time.perf_counter(), _cpu_s()
    while _cpu_s() < cpu + seconds:
        next(batches)
        count += BATCH
    return {"images_per_s": count / (time.perf_counter() - started), "images_per_cpu_s": count / (_cpu_s() - cpu)}


def _cpu_s() -> float:
    """CPU seconds of this process, all its threads, and of its children that live."""
    ticks = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure_apart(side: str, folder: Path, size: int, seconds: float) -> Figures:
    """The same in a process of its own; RuntimeError names what is missing."""
    command = [sys.executable, "-m", "benchmarks.input", "--side", side, "--folder", str(folder)]
    command += ["--size", str(size), "--seconds", str(seconds)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        answer = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer after {error.timeout:.0f} s") from error
    if answer.returncode == MISSING:
        raise RuntimeError(f"{answer.stdout.strip()} is not installed: skipped")
    if answer.returncode:
        raise RuntimeError((answer.stderr.splitlines() or ["it ended without a word"])[-1])
    figures: Figures = json.loads(answer.stdout.splitlines()[-1])
    return figures


def measure_limit(program: Path, folder: Path, size: int, seconds: float) -> Figures:
    """libjpeg-turbo alone, on one core."""
    files = map(str, sorted(folder.glob("jpeg/*/*.jpg")))
    answer = subprocess.run([program, str(size), str(seconds), *files], check=True, stdout=subprocess.PIPE, text=True)
    return {"images_per_cpu_s": float(answer.stdout)}


def build_limit(folder: Path) -> Path | None:
    """The C program, or None where there is no compiler or no libjpeg-turbo."""
    compiler, source = shutil.which("cc") or shutil.which("gcc"), REPOSITORY / "benchmarks/peers/limit.c"
    if compiler is None:
        print("  limit: no C compiler: skipped", flush=True)
        return None
    command = [compiler, "-O3", "-march=native", str(source), "-o", str(folder / "limit"), "-ljpeg", "-lm"]
    if subprocess.run(command, capture_output=True).returncode:
        print("  limit: it cannot be built, libjpeg-turbo's headers are missing perhaps: skipped", flush=True)
        return None
    return folder / "limit"


def _run_side(asked: argparse.Namespace) -> None:
    try:
        figures = measure(asked.side, Path(asked.folder), asked.size, asked.seconds)
    except ModuleNotFoundError as error:
        print(error.name, flush=True)
        os._exit(MISSING)
    print(json.dumps(figures), flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)  # TensorFlow's threads may wait for the interpreter


def main() -> None:
    """Prepare the photographs, measure every side in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of CPU, for each side in each round")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--sides", help=f"some of {','.join(SIDES)},limit")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        _run_side(asked)
    with tempfile.TemporaryDirectory() as name:
        folder, chosen = Path(name), asked.sides.split(",") if asked.sides else [*SIDES, "limit"]
        write_photographs(folder, asked.images)
        sides = {each: partial(measure_apart, each, folder, asked.size, asked.seconds) for each in SIDES}
        program = build_limit(folder) if "limit" in chosen else None
        if program:
            sides["limit"] = partial(measure_limit, program, folder, asked.size, asked.seconds)
        results = interleave({each: run for each, run in sides.items() if each in chosen}, asked.rounds)
    wanted = [goal for goal in GOALS if {goal.ours, goal.theirs} <= {*chosen}]
    show(f"photographs to {asked.size} pixels, batches of {BATCH}", results, wanted)
    for each in ("convoy", "tuned"):
        if results.get(each) and results.get("limit"):
            pairs = zip(results[each], results["limit"])
            ratio = statistics.median(one["images_per_cpu_s"] / limit["images_per_cpu_s"] for one, limit in pairs)
            print(f"  {each} / libjpeg-turbo alone, images_per_cpu_s: {ratio:.2f}")
    save(asked.json, results)


if __name__ == "__main__":
    main()
