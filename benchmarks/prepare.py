"""A folder of photographs into shards: Convoy's preparing against the writers of others.

    python -m benchmarks.prepare [--rounds 5] [--images 4000] [--json FILE]

JPEGs of 500x375 (cut from scikit-learn's two sample photographs, quality 96) into four shards, checksums on. Convoy
does all of `job=prepare` meanwhile: it lists and splits, looks into every JPEG, looks for duplicates, syncs every file
to the disk, writes index, labels, keys, manifest and report. The others write what they are given and sync nothing.
Every side is a process of its own on one core (`convoy_two`: two on two cores); `images_per_cpu_s` depends least on who
else uses the machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.peers.writers import SHARDS, SIDES
from benchmarks.photographs import write_jpegs
from benchmarks.report import REPOSITORY, Figures, Goal, compile_bytecode, interleave, save, show

GOALS = [
    Goal("convoy", "TFRecordWriter", "images_per_cpu_s", 1.2),
    *(Goal("convoy", peer, "images_per_cpu_s", 1.0) for peer in ("tensorflow-datasets", "WebDataset", "ArrayRecord")),
    Goal("convoy_two", "convoy", "images_per_s", 1.8),
]


def measure(side: str, folder: Path) -> Figures:
    """One side in a process of its own, into a folder that is empty."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what the side before left to be written is none of this one's business
    command = [sys.executable, "-m", "benchmarks.peers.writers", side, str(folder), str(out)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Write the photographs, measure every side in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    compile_bytecode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jpegs(folder / "few", 2 * SHARDS)
        write_jpegs(folder / "photographs", asked.images)
        results = interleave({side: partial(measure, side, folder) for side in SIDES}, asked.rounds)
    show(f"{asked.images} photographs into four shards", results, GOALS)
    save(asked.json, results)


if __name__ == "__main__":
    main()
