"""SIGKILL at every single storage operation of a save and of the pruning after it, on a disk and on a GCS server.

What is saved is a small real training, which afterwards goes on to the bits of one that was never interrupted.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from storage.names import UNFINISHED
from storage.run_dir import RunDir
from tests.storage.gcs_server import BUCKET, running_gcs_server
from tests.trainer.killed_writers import STEPS, Snapshot
from trainer.checkpoint_writer import CheckpointWriter
from trainer.checkpoints import list_checkpoints, newest_whole
from trainer.retention import Retention
from trainer.state import TrainingState


class Training:
    """Adam on a layer and a head, with another batch at each step."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        layers = [keras.Input((8,)), keras.layers.Dense(32, "relu", name="hidden"), keras.layers.Dense(3, name="head")]
        self._model, self._optimizer = keras.Sequential(layers), keras.optimizers.Adam(0.05)
        self._optimizer.build(self._model.trainable_variables)
        self._state = TrainingState(self._model, self._optimizer, None)

    def update(self, step: int) -> Snapshot:
        """One update; all tensors after it."""
        random = np.random.default_rng(step)
        images, labels = random.normal(size=(16, 8)).astype("float32"), random.integers(0, 3, 16)
        with tf.GradientTape() as tape:
            logits = self._model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        self._optimizer.apply(tape.gradient(loss, self._model.trainable_variables))
        return {name: tensor.numpy() for name, tensor in self._state.snapshot().items()}

    def restore(self, tensors: Snapshot) -> None:
        """Put a checkpoint's tensors into the variables."""
        self._state.restore(tensors, "a checkpoint")


def assert_equal(found: Snapshot, expected: Snapshot) -> None:
    """The same bits under the same names."""
    assert found.keys() == expected.keys()
    assert [name for name, array in expected.items() if not np.array_equal(found[name], array)] == []


def check_content(run: RunDir, calm: dict[int, Snapshot], steps: set[int]) -> int:
    """The newest whole checkpoint is one of these steps, it is right, and nothing looks broken."""
    loaded = newest_whole(run)
    assert loaded is not None
    assert loaded.step in steps
    assert (loaded.state, loaded.broken) == ({"step": loaded.step}, [])
    assert_equal(loaded.tensors, calm[loaded.step])
    assert [status for status in list_checkpoints(run, verify=True) if status.problem] == []
    return loaded.step


@pytest.fixture(scope="module")
def training() -> Training:
    """Built once: restoring gives it all its state."""
    return Training()


@pytest.fixture(scope="module")
def calm(training: Training) -> dict[int, Snapshot]:
    """An uninterrupted training, by step."""
    found = {step: training.update(step) for step in STEPS}
    assert all(not np.array_equal(found[300][name], found[400][name]) for name in found[300] if "rate" not in name)
    return found


@pytest.fixture(scope="module", params=["disk", "gcs"])
def killed(
    request: pytest.FixtureRequest, calm: dict[int, Snapshot], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunDir]]:
    """Run directories, each left by a writer that was killed one storage operation later than the one before."""
    folder = tmp_path_factory.mktemp("killed")
    states = folder / "states.npz"
    np.savez(states, **{f"{step} {name}": array for step in STEPS for name, array in calm[step].items()})
    if request.param == "disk":
        yield list(victims(str(folder), states, {}))
        return
    with running_gcs_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server)
        yield list(victims(f"gs://{BUCKET}/{secrets.token_hex(4)}", states, {"STORAGE_EMULATOR_HOST": server}))


def victims(root: str, states: Path, environment: dict[str, str]) -> Iterator[RunDir]:
    """Let them be killed; their run directories."""
    command = [sys.executable, "-m", "tests.trainer.killed_writers", root, str(states)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for run_id in json.loads(done.stdout):
        yield RunDir(root, run_id)


@pytest.mark.filterwarnings(
    "ignore:Please install grpcio-status:ImportWarning", "ignore:unclosed <socket:ResourceWarning"
)
def test_a_killed_writer_leaves_a_whole_checkpoint_and_the_training_goes_on(
    killed: list[RunDir], calm: dict[int, Snapshot], training: Training
) -> None:
    """Before the manifest the old one, from then on the new one; the next attempt ends the same, and clears up."""
    assert len(killed) >= 15, "fewer operations than a save and a pruning have"
    found = [check_content(run, calm, {200, 300}) for run in killed]
    assert found == sorted(found), "once it is there it stays"
    assert set(found) == {200, 300}
    for run, step in zip(killed, found):
        go_on(run, training, step)
        assert check_content(run, calm, {400}) == 400
        if Path(run.url).exists():
            left = [path for path in Path(run.url).rglob(f"*{UNFINISHED}") if path.stat().st_nlink == 1]
            assert left == [], "an interrupted write takes up space (a second name of a published file does not)"
        assert len(list(run.store.list("checkpoints/"))) == 3, "one checkpoint's files and nothing else"


def go_on(run: RunDir, training: Training, step: int) -> None:
    """The next attempt: restore what is there, train to the end, save on the way."""
    loaded = newest_whole(run)
    assert loaded is not None and loaded.step == step
    training.restore(loaded.tensors)
    writer = CheckpointWriter(run, attempt=2, keep=Retention(1))
    for later in [later for later in STEPS if later > step]:
        writer.submit(later, training.update(later), {"step": later})
    writer.close()
