"""A folder of photographs into shards: Convoy's preparing against the writers of others.

    python -m benchmarks.prepare [SIDE ...] [--rounds 5] [--images 24000] [--folder FOLDER] [--memory FOLDER]
        [--json FILE]

JPEGs of 500x375 (cut from scikit-learn's two sample photographs, quality 96) into four shards, checksums on. Convoy
does all of `job=prepare` meanwhile: it lists and splits, looks into every JPEG, looks for duplicates, syncs every file
to the disk, writes index, labels, keys, manifest and report. The others write what they are given and sync nothing, but
for `TFRecordWriter, synced` and `copy`. Every side is a process of its own on one core (`..._two`: two on two cores);
`images_per_cpu_s` depends least on who else uses the machine.

24,000 of them are 2 GB, the size of a small real set: what a preparation takes to begin and to end by itself (the job
is read, processes are forked, a dozen files are synced) does not grow with the set. Twice that has to fit into memory.

By the clock two processes can be no faster than the disk. `copy` writes and syncs the same bytes and does nothing else:
`copy_two` against `copy` is what two processes can gain on this disk, and `convoy_two` against `copy_two` how near to
it they come. Sides `..., in memory` write into --memory (by default /dev/shm), where no disk limits anybody, but memory
does: there too `copy_two` against `copy` is what two processes can gain, and `apart_two`, two preparations that share
nothing and do half each, is what they could reach if nothing at all were done by one process alone.
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

from benchmarks.peers.writers import SHARDS, WRITERS
from benchmarks.photographs import write_jpegs
from benchmarks.report import REPOSITORY, Figures, Goal, compile_bytecode, interleave, save, show

GOALS = [
    Goal("convoy", "TFRecordWriter", "images_per_cpu_s", 1.2),
    *(Goal("convoy", peer, "images_per_cpu_s", 1.0) for peer in ("tensorflow-datasets", "WebDataset", "ArrayRecord")),
    Goal("convoy_two", "convoy", "images_per_s", 1.8),
    Goal("convoy_two, in memory", "convoy, in memory", "images_per_s", 1.8),
]
#: What they are to be seen beside.
LIMITS = [
    Goal("convoy", "TFRecordWriter, synced", "images_per_cpu_s", None),
    Goal("copy_two", "copy", "images_per_s", None),
    Goal("copy_two", "convoy", "images_per_s", None),
    Goal("convoy_two", "copy_two", "images_per_s", None),
    Goal("copy_two, in memory", "copy, in memory", "images_per_s", None),
    Goal("apart_two, in memory", "convoy, in memory", "images_per_s", None),
    Goal("convoy_two, in memory", "apart_two, in memory", "images_per_s", None),
]
_IN_MEMORY = ", in memory"
MEASURED_IN_MEMORY = ("convoy", "convoy_two", "apart_two", "copy", "copy_two")


def measure(side: str, folder: Path, out: Path) -> Figures:
    """One side in a process of its own, into a folder that is empty."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what the side before left to be written is none of this one's business
    command = [sys.executable, "-m", "benchmarks.peers.writers", side.removesuffix(_IN_MEMORY), str(folder), str(out)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Write the photographs, measure every side in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sides", nargs="*", metavar="SIDE", help="only these, such as convoy 'convoy_two, in memory'")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=24000)
    parser.add_argument("--folder", type=Path, help="where photographs and shards lie for the time")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder of a file system in memory")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    known = [*WRITERS, *(f"{side}{_IN_MEMORY}" for side in MEASURED_IN_MEMORY)]
    if unknown := [side for side in asked.sides if side not in known]:
        parser.error(f"there is no side {unknown[0]!r}; there are {'; '.join(known)}")
    compile_bytecode()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name, tempfile.TemporaryDirectory(dir=asked.memory) as memory:
        folder = Path(name)
        write_jpegs(folder / "few", 2 * SHARDS)
        write_jpegs(folder / "photographs", asked.images)
        outs = {side: (Path(memory) if side.endswith(_IN_MEMORY) else folder) / "out" for side in asked.sides or known}
        sides = {side: partial(measure, side, folder, out) for side, out in outs.items()}
        results = interleave(sides, asked.rounds)
    show(f"{asked.images} photographs into four shards", results, [*GOALS, *LIMITS])
    save(asked.json, results)


if __name__ == "__main__":
    main()
