"""What a checkpoint of Xception with Adam (274 MB) costs the training, and when it is on the disk.

    python -m benchmarks.checkpoint [--rounds 5] [--folder DIR] [--json FILE]

Every side saves the same variables between the same steps (one Adam update of all of them) to the same disk:

    blocked_s    until the call returns
    next_s       what the following step takes longer than usual
    cost_s       blocked_s + next_s: what the training pays
    later_s      what all steps until the end of the save take longer, the following one included
    durable_s    from the call until it is finished: Convoy's with crc32c and fsync, tf.train.Checkpoint's without

Orbax is measured where `orbax-checkpoint` is installed.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.report import Figures, Goal, interleave, save, show
from data_pipeline.allocator import keep_freed_memory
from storage.run_dir import RunDir
from trainer.checkpoint_writer import CheckpointWriter
from trainer.checkpoints import load
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
    with ThreadPoolExecutor(1) as pool:
        finished = pool.submit(lambda: (finish(), time.perf_counter())[1])
        later = [training.step() - usual]
        while not finished.done():
            later.append(training.step() - usual)
    shutil.rmtree(folder)
    return {
        "blocked_s": blocked,
        "next_s": later[0],
        "cost_s": blocked + later[0],
        "later_s": sum(later),
        "durable_s": finished.result() - begun,
    }


def sides(training: Training) -> dict[str, Save]:
    """Convoy and its peers."""

    @cache  # of a training too, which has one writer; Orbax's asynchronous one is made once below
    def writer_in(folder: Path) -> CheckpointWriter:
        return CheckpointWriter(RunDir(str(folder), "run"), attempt=0)

    def convoy(folder: Path) -> Callable[[], object]:
        writer = writer_in(folder)
        writer.submit(training.steps, training.state.snapshot(), {})
        return writer.wait

    def tf_checkpoint(folder: Path) -> Callable[[], object]:
        tf.train.Checkpoint(model=training.model, optimizer=training.optimizer).write(str(folder / "checkpoint"))
        return lambda: None

    def keras_file(folder: Path) -> Callable[[], object]:
        training.model.save(folder / "model.keras")
        return lambda: None

    def orbax_sync(folder: Path) -> Callable[[], object]:
        with orbax.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(folder / "checkpoint", training.arrays())
        return lambda: None

    known: dict[str, Save] = {"convoy": convoy, "tf.train.Checkpoint": tf_checkpoint, ".keras": keras_file}
    if orbax is not None:
        checkpointer = orbax.AsyncCheckpointer(orbax.PyTreeCheckpointHandler())

        def orbax_async(folder: Path) -> Callable[[], object]:
            checkpointer.save(folder / "checkpoint", training.arrays())
            return checkpointer.wait_until_finished

        known |= {"Orbax sync": orbax_sync, "Orbax async": orbax_async}
    return known


def prove(training: Training, folder: Path) -> None:
    """What Convoy saved is what the variables held: a fast checkpoint of nothing would be no feat."""
    run, held = RunDir(str(folder), "proof"), training.arrays()
    writer = CheckpointWriter(run, attempt=0)
    writer.submit(1, training.state.snapshot(), {})
    training.step()
    writer.close()
    tensors, _ = load(run, 1)
    if any(tensors[name].tobytes() != array.tobytes() for name, array in held.items()):
        raise RuntimeError("the checkpoint is not of the step at which it was taken")
    size = sum(array.nbytes for array in held.values())
    print(f"{len(held)} variables, {size / 1e6:.0f} MB; the snapshot was checked bit for bit", flush=True)
    shutil.rmtree(folder / "proof")


def main() -> None:
    """Measure all sides in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()  # as a worker has it
    training = Training()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        prove(training, folder)
        measures = {
            side: partial(measure, training, begin, folder / str(number))
            for number, (side, begin) in enumerate(sides(training).items())
        }
        interleave(measures, 1)  # warm-up
        results = interleave(measures, options.rounds)
    show("A checkpoint of Xception with Adam", results, GOALS)
    save(options.json, results)


if __name__ == "__main__":
    main()
