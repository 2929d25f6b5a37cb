"""What rematerialisation saves: peak memory and time of a training step, each measured in a process of its own.

    python -m benchmarks.memory [MODEL SIDE BATCH]

Prints a line for each model with and without `trainer.rematerialize=blocks`. Peak is the high-water mark of the
process's resident memory over some steps, less what it had when the step was traced: activations, gradients, optimizer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.report import REPOSITORY, machine

#: Name, side of the images, examples of a batch.
CASES = (("mobilenetv2", 96, 128), ("resnet50", 96, 64), ("vit", 224, 16))


def main(arguments: Sequence[str]) -> None:
    """Every case, or the one that is named."""
    print(machine())
    cases = [(arguments[0], int(arguments[1]), int(arguments[2]))] if arguments else CASES
    for case in cases:
        plain, less = (measured(*case, mode) for mode in ("none", "blocks"))
        name, side, batch = case
        print(
            f"{name} at {side}, batch {batch}: {plain['peak_bytes'] / 1e6:.0f} MB and {plain['step_s']:.2f} s a step;"
            f" by blocks {less['peak_bytes'] / 1e6:.0f} MB and {less['step_s']:.2f} s:"
            f" {less['peak_bytes'] / plain['peak_bytes']:.2f} of the memory,"
            f" {less['step_s'] / plain['step_s']:.2f} of the time",
            flush=True,
        )


def measured(name: str, side: int, batch: int, mode: str) -> dict[str, float]:
    """`peak_bytes` and `step_s` of one case, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_step", name, str(side), str(batch), mode]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main(sys.argv[1:])
