"""What pretrained weights are worth on few images: `experiment=transfer_cifar`, its head alone, and no weights at all.

    python -m benchmarks.transfer CIFAR10 WEIGHTS [--seeds 3] [--runs FOLDER] [--only scratch|head|fine] [--json FILE]

CIFAR10 is a folder with train/<class>/ and test/<class>/, WEIGHTS a file of MobileNetV2's weights, or `imagenet`. Each
row is a training by the command that a user would type, once a seed; the seed also draws the images. Prints the share
of the 1000 test images that was classified right, for each seed, and the median.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import REPOSITORY, machine
from storage.run_dir import METRICS

#: 100 images a class, all of them for training and testing.
IMAGES = "data=folder data.examples_per_class=100 data.split={train:1,validation:0,test:0} data.augment.flip=true"
#: A name for the run, what the table calls it, and the words of the command.
ROWS = {
    "scratch": ("the convnet from scratch, 32 pixels, 60 epochs", f"{IMAGES} trainer=convnet trainer.epochs=60"),
    "head": (
        "MobileNetV2, its head alone",
        "experiment=transfer_cifar trainer.epochs=8 trainer.phases=[{trainable:head,learning_rate:0.003}]",
    ),
    "fine": ("MobileNetV2, the head, then from block_13 upwards", "experiment=transfer_cifar"),
}
GOALS = "the head alone at least 0.64, from scratch under 0.55, fine-tuned above the head alone"


def command(row: str, data: str, weights: str, seed: int, runs: str) -> list[str]:
    """The command line of one training."""
    words = [*ROWS[row][1].split(), f"data.path={data}", f"seed={seed}", f"storage.root={runs}"]
    if row != "scratch":
        words.append(f"trainer.model.weights={weights}")
    return [sys.executable, "launcher/run.py", *words, "trainer.export_at_end=false", f"run_id={row}-{seed}"]


def measure(row: str, data: str, weights: str, seed: int, runs: str) -> dict[str, float]:
    """Train once; test accuracy and seconds."""
    line = command(row, data, weights, seed, runs)
    begun = time.monotonic()
    subprocess.run(line, cwd=REPOSITORY, check=True, stdout=sys.stderr)
    report = json.loads(Path(runs, f"{row}-{seed}", METRICS).read_text())
    return {"accuracy": report["accuracy"], "images": report["num_examples"], "seconds": time.monotonic() - begun}


def main() -> None:
    """Train every row with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="CIFAR10")
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", help="where the runs are kept; default: nowhere")
    parser.add_argument("--only", choices=ROWS, help="this row alone")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS if asked.only in (None, row)}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(asked.seeds):
            for row, found in results.items():
                found.append(measure(row, asked.data, asked.weights, seed, asked.runs or temporary))
    sys.stdout.write(f"{machine()}\n{GOALS}\n\n")
    sys.stdout.write("| 100 images a class | test accuracy of each seed | median | seconds |\n|---|---|---|---|\n")
    for row, found in results.items():
        accuracies = [one["accuracy"] for one in found]
        each = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        seconds = statistics.median(one["seconds"] for one in found)
        sys.stdout.write(f"| {ROWS[row][0]} | {each} | {statistics.median(accuracies):.3f} | {seconds:.0f} |\n")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
