"""Snapshots are copied at once into memory that stays; training goes on in its own."""

import resource
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from storage.run_dir import RunDir, checkpoint_name
from trainer.checkpoint_image import CheckpointImage
from trainer.checkpoint_writer import CheckpointWriter, NotFinite
from trainer.checkpoints import load
from trainer.retention import Retention

PAGE_BYTES = 4096


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path), "run")


def address(variable: tf.Variable) -> int:
    """Where TensorFlow keeps its value."""
    return np.asarray(memoryview(variable.read_value())).ctypes.data


def random_arrays(seed: int, sizes: list[tuple[int, ...]], dtype: Any = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"model/{number}": rng.normal(size=size).astype(dtype) for number, size in enumerate(sizes)}


def test_the_next_update_of_a_saved_variable_copies_nothing(run: RunDir) -> None:
    """As long as somebody holds a value, TensorFlow writes the next one elsewhere. The writer holds none."""
    variable, writer, go = tf.Variable(tf.zeros(100_000)), CheckpointWriter(run, attempt=0), threading.Event()
    before = address(variable)
    held = variable.read_value()
    variable.assign_add(tf.ones(100_000))
    assert address(variable) != before, "whoever reads by reference makes the next update copy"
    del held
    before = address(variable)
    writer.submit(1, {"x": variable.read_value()}, {}, first=lambda: go.wait(20))
    variable.assign_add(tf.ones(100_000))
    assert address(variable) == before
    go.set()
    writer.close()
    assert set(load(run, 1)[0]["x"]) == {1.0}


def test_arrays_may_change_once_they_are_submitted(run: RunDir) -> None:
    """What is written is what they held, though nothing is written before they have changed."""
    arrays, go = random_arrays(0, [(3,), (500, 700), (1 << 21,), ()]), threading.Event()
    expected = {name: array.copy() for name, array in arrays.items()}
    writer = CheckpointWriter(run, attempt=0)
    writer.submit(1, arrays, {}, first=lambda: go.wait(20))
    for array in arrays.values():
        array[...] = -1
    go.set()
    writer.close()
    saved = load(run, 1)[0]
    assert all(np.array_equal(saved[name], array) for name, array in expected.items())


def test_a_save_asks_the_system_for_no_memory_that_the_one_before_had() -> None:
    """The first asks for all of it, or `reserve` does before; the others find it."""
    arrays = random_arrays(0, [(4 << 20,)] * 4)  # 64 MiB
    pages = sum(array.nbytes for array in arrays.values()) / PAGE_BYTES
    image = CheckpointImage()
    taken = [resident_pages()]
    image.reserve(arrays)
    taken.append(resident_pages())
    first = image.arrays["model/0"]  # it keeps its memory from being given back
    for _ in range(3):
        image.hold(arrays)
    taken.append(resident_pages())
    assert np.shares_memory(image.arrays["model/0"], first)
    image.close()
    assert taken[1] - taken[0] > pages * 0.9
    assert taken[2] - taken[1] < pages * 0.1


def resident_pages() -> int:
    """What this process takes up."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // PAGE_BYTES


def test_snapshots_of_other_shapes_follow_one_another(run: RunDir) -> None:
    """As when a phase thaws layers: more tensors, fewer, others of the same size. The safetensors package reads all."""
    snapshots = [
        random_arrays(1, [(5,), (300, 400)]),
        random_arrays(2, [(400, 300), (5,)], "float16"),
        random_arrays(3, [(5,), (300, 400), (0, 3), (1000, 300), ()]),
        random_arrays(4, [(5,), (300, 400)]) | {"flag": np.array(True), "big": np.arange(6, dtype=">i8")[::2]},
    ]
    writer = CheckpointWriter(run, attempt=0, keep=Retention(9))
    writer.reserve(snapshots[0])
    for step, snapshot in enumerate(snapshots):
        writer.submit(step, snapshot, {})
    writer.close()
    for step, snapshot in enumerate(snapshots):
        (path,) = Path(run.url, checkpoint_name(step)).glob("*.safetensors")
        theirs = safetensors.numpy.load_file(path)
        assert theirs.keys() == snapshot.keys()
        for name, array in snapshot.items():
            assert theirs[name].dtype == array.dtype.newbyteorder("=") and np.array_equal(theirs[name], array)


class OnDevice:
    """What a tensor in a GPU's memory looks like from here, where there is no GPU."""

    backing_device, dtype = "/job:localhost/replica:0/task:0/device:GPU:0", tf.float32

    def __init__(self, array: np.ndarray):
        self._array, self.shape, self.num_fetched = array, tf.TensorShape(array.shape), 0

    def numpy(self) -> np.ndarray:
        self.num_fetched += 1
        return self._array


def test_what_lies_on_a_device_is_fetched_in_the_background_once(run: RunDir) -> None:
    arrays, go = random_arrays(0, [(7, 5), (3,)]), threading.Event()
    far = OnDevice(arrays["model/0"])
    writer = CheckpointWriter(run, attempt=0)
    writer.submit(1, arrays | {"model/0": far}, {}, first=lambda: go.wait(20))
    assert far.num_fetched == 0
    go.set()
    writer.close()
    assert far.num_fetched == 1
    assert all(np.array_equal(load(run, 1)[0][name], array) for name, array in arrays.items())


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_what_is_not_finite_is_refused_in_every_precision(run: RunDir, dtype: Any) -> None:
    """Infinities of both signs, whose sum says nothing; large numbers, whose sum is too large, are saved."""
    large = {"x": np.full(40_000, 60_000, dtype), "count": np.array(7)}
    writer = CheckpointWriter(run, attempt=0)
    writer.submit(1, large, {})
    writer.submit(2, large | {"y": np.array([np.inf, 1, -np.inf], dtype)}, {})
    with pytest.raises(NotFinite, match="step 2 is not saved: y is not finite"):
        writer.close()
    assert load(run, 1)[0]["x"].tobytes() == large["x"].tobytes()
