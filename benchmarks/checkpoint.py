"""What a checkpoint of Xception with Adam (274 MB) costs the training, and when it is on the disk.

    python -m benchmarks.checkpoint [--rounds 5] [--folder DIR] [--json FILE]

Every side saves the same variables between the same steps (one Adam update of all of them) to the same disk:

    blocked_s    until the call returns
    next_s       what the following step takes longer than usual
    cost_s       blocked_s + next_s: what the training pays
    later_s      what all steps until the end of the save take longer, the following one included
    durable_s    from the call until it is finished; of Convoy's that includes crc32c and fsync, of the others' it does not

Orbax is measured where `orbax-checkpoint` is installed.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.report import Figures, Goal, interleave, save, show
from storage.run_dir import RunDir
from trainer.checkpoints import CheckpointWriter, load
from trainer.state import TrainingState

try:
    import orbax.checkpoint as orbax
except ModuleNotFoundError:
    orbax = None

USUAL_STEPS = 5
GOALS = [
    Goal("convoy", "tf.train.Checkpoint", "cost_s", 0.25, at_most=True),
    Goal("convoy", "Orbax async", "cost_s", 0.5, at_most=True),
    Goal("convoy", "tf.train.Checkpoint", "durable_s", 1.0, at_most=True),
]
#: Saves into a folder; the answer waits until that is finished.
Save = Callable[[Path], Callable[[], object]]


class Training:
    """Xception and Adam, and a step that changes every variable."""

    def __init__(self) -> None:
        self.model = keras.applications.Xception(weights=None, classes=1000)
        self.optimizer = keras.optimizers.Adam(1e-6)
        self.optimizer.build(self.model.trainable_variables)
        self.state = TrainingState(self.model, self.optimizer, None)
        self._gradients = [tf.random.normal(variable.shape) for variable in self.model.trainable_variables]
        self._update = tf.function(lambda: self.optimizer.apply(self._gradients, self.model.trainable_variables))
        self.steps = 0
        for _ in range(3):
            self.step()

    def step(self) -> float:
        """One update; its seconds."""
        begun = time.perf_counter()
        self._update()
        self.optimizer.iterations.numpy()
        self.steps += 1
        return time.perf_counter() - begun

    def arrays(self) -> dict[str, Any]:
        """A copy of every variable, as numpy arrays."""
        return {name: variable.numpy() for name, variable in self.state.variables().items()}


def measure(training: Training, begin: Save, folder: Path) -> Figures:
    """Save once between steps; the figures of the module's docstring."""
    folder.mkdir()
    os.sync()
    usual = statistics.median(training.step() for _ in range(USUAL_STEPS))
    begun = time.perf_counter()
    finish = begin(folder)
    blocked = time.perf_counter() - begun
    next_step = training.step() - usual
    later, finished = next_step, [begun + blocked]
    waiting = _in_background(finish, finished)
    while waiting():
        later += training.step() - usual
    durable = finished[-1] - begun
    shutil.rmtree(folder)
    cost = blocked + next_step
    return {"blocked_s": blocked, "next_s": next_step, "cost_s": cost, "later_s": later, "durable_s": durable}
