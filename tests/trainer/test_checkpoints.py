"""A checkpoint is whole or does not exist; what is broken is named and passed over."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import JobSpec, StorageSpec
from storage.run_dir import RunDir, checkpoint_name
from storage.store import StoreError
from trainer import checkpoint_tensors
from trainer.checkpoint_manifest import manifest_name
from trainer.checkpoint_tensors import decoded, encoded
from trainer.checkpoint_writer import CheckpointWriter, NotFinite
from trainer.checkpoints import Broken, list_checkpoints, load, newest_whole, prune, remember, save
from trainer.inventory import take
from trainer.retention import Retention

DTYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16, "int64", "int32", "int16", "int8"]
DTYPES += ["uint64", "uint32", "uint16", "uint8", "bool"]
SHAPES = [(), (0, 3), (5,), (2, 3, 4)]


def tensors_of(step: int) -> dict[str, np.ndarray]:
    """Tensors whose values tell the step."""
    return {"model/kernel": np.full((7, 5), step, np.float32), "optimizer/iterations": np.array(step, np.int64)}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """An empty run directory."""
    return RunDir(str(tmp_path), "run")


def file_of(run: RunDir, step: int, ending: str) -> Path:
    """The one file of a checkpoint with that ending."""
    (path,) = Path(run.url, checkpoint_name(step)).glob(f"*{ending}")
    return path


def saved_steps(run: RunDir) -> list[int]:
    """The steps that have a manifest."""
    return [status.step for status in list_checkpoints(run)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("kind", ["numpy", "tensorflow"])
def test_every_dtype_comes_back_bit_for_bit(run: RunDir, dtype: Any, shape: tuple[int, ...], kind: str) -> None:
    """Random bits of every dtype and rank, as arrays and as eager tensors, NaNs and infinities among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    array = raw.view(dtype).reshape(shape)
    save(run, 1, {"x": tf.constant(array) if kind == "tensorflow" else array}, {}, 0)
    got = load(run, 1)[0]["x"]
    assert (got.dtype, got.shape) == (np.dtype(dtype), shape)
    assert got.tobytes() == array.tobytes()


def test_the_files_are_safetensors(run: RunDir) -> None:
    """The safetensors package reads what we write, and we read what it writes."""
    rng = np.random.default_rng(0)
    arrays = {
        "a/b": rng.random((3, 5)).astype("float32"),
        "n": np.array(7),
        "flag": np.array([True]),
        "e": np.zeros((0, 2)),
    }
    save(run, 1, arrays, {}, 0)
    theirs = safetensors.numpy.load_file(file_of(run, 1, ".safetensors"))
    ours = decoded(memoryview(safetensors.numpy.save(arrays, {"who": "safetensors"})))
    for read in (theirs, ours):
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
            assert np.array_equal(read[name], array)


def test_odd_arrays_come_back(run: RunDir) -> None:
    """Transposed, strided and big-endian arrays are stored by their values, and come back aligned."""
    base = np.arange(24, dtype="int32").reshape(4, 6)
    arrays = {"transposed": base.T, "strided": base[::2, ::3], "big": base.astype(">i4")}
    arrays |= {"a flag": np.array(True), "every third": np.arange(9.0)[::3]}
    save(run, 1, arrays, {}, 0)
    got = load(run, 1)[0]
    assert all(np.array_equal(got[name], array) for name, array in arrays.items())
    assert all(array.flags.aligned for array in got.values())


def test_a_dtype_without_a_code_is_named() -> None:
    """Text cannot be held; the tensor is named."""
    with pytest.raises(TypeError, match="model/words: a checkpoint cannot hold"):
        encoded({"model/words": np.array(["a"])})


def test_large_states_are_shared_out_over_files(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files, none larger than it must be; every tensor comes back."""
    monkeypatch.setattr(checkpoint_tensors, "FILE_BYTES", 100)
    arrays = {f"x{i}": np.full(i, i % 251, np.uint8) for i in (1, 40, 50, 60, 300)}
    save(run, 1, arrays, {}, 0)
    files = sorted(Path(run.url, checkpoint_name(1)).glob("*.safetensors"))
    assert [sorted(safetensors.numpy.load_file(file)) for file in files] == [["x1"], ["x300"], ["x40", "x50"], ["x60"]]
    got = load(run, 1)[0]
    assert got.keys() == arrays.keys()
    assert all(np.array_equal(got[name], array) for name, array in arrays.items())


def test_the_state_comes_back(run: RunDir) -> None:
    """JSON, floats to the last bit."""
    state = {"epoch": 3, "place": 128, "best": 0.1 + 0.2, "worst": float("inf"), "names": ["ä"], "none": None}
    save(run, 5, tensors_of(5), state, 2)
    loaded = newest_whole(run)
    assert loaded is not None
    assert (loaded.step, loaded.state, loaded.broken) == (5, state, [])


def test_a_run_without_checkpoints_has_none(run: RunDir) -> None:
    """Nothing was saved, nothing is broken."""
    assert newest_whole(run) is None
    assert list_checkpoints(run) == []
    assert prune(run, Retention(1)) == []


def flip_a_bit(path: Path) -> None:
    """Change the last byte but three."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    """Lose the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def told(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A manifest of the right form that says something else."""

    def hurt(path: Path) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return hurt


def of_tensors(**fields: Any) -> Callable[[Path], None]:
    """A manifest that says this of its first file of tensors."""
    return told(lambda manifest: manifest["tensors"][0].update(fields))


def become_a_folder(path: Path) -> None:
    """There is something of that name, and it cannot be read."""
    path.unlink()
    path.mkdir()


DAMAGES = {
    "tensors flipped": (".safetensors", flip_a_bit, "crc32c"),
    "tensors cut": (".safetensors", cut_short, "bytes, not"),
    "tensors empty": (".safetensors", lambda path: path.write_bytes(b""), "has 0 bytes"),
    "tensors missing": (".safetensors", Path.unlink, "safetensors is missing"),
    "state flipped": ("state.json", flip_a_bit, "crc32c"),
    "state missing": ("state.json", Path.unlink, "state.json is missing"),
    "manifest cut": ("manifest.json", lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be read"),
    "manifest is other JSON": ("manifest.json", lambda path: path.write_bytes(b'{"a": 1}'), "not a manifest"),
    "manifest is a list": ("manifest.json", lambda path: path.write_bytes(b"[]"), "not a manifest"),
    "manifest is too deep": ("manifest.json", lambda path: path.write_bytes(b"[" * 200_000), "not a manifest"),
    "manifest's step is text": ("manifest.json", told(lambda manifest: manifest.update(step="2")), "is no number"),
    "manifest's attempt is a list": (
        "manifest.json",
        told(lambda manifest: manifest.update(attempt=[])),
        "is no number",
    ),
    "a metric without end": (
        "manifest.json",
        told(lambda manifest: manifest.update(metrics={"validation_loss": 10**400})),
        "not a manifest",
    ),
    "a file of another folder": ("manifest.json", of_tensors(name="../step_00000001/manifest.json"), "no name of a"),
    "a file anywhere": ("manifest.json", of_tensors(name="/etc/hostname"), "no name of a file"),
    "a name that is a number": ("manifest.json", of_tensors(name=3), "no name of a file"),
    "a size that is text": ("manifest.json", of_tensors(size="5"), "cannot have '5' bytes"),
    "a size below nothing": ("manifest.json", of_tensors(size=-5), "cannot have -5 bytes"),
    "a size beyond any disk": ("manifest.json", of_tensors(size=10**30), f"bytes, not {10**30}"),
    "a checksum that is text": ("manifest.json", of_tensors(crc32c="abc"), "the crc32c 'abc'"),
    "a checksum too large": ("manifest.json", of_tensors(crc32c=1 << 32), f"the crc32c {1 << 32}"),
    "tensors cannot be read": (".safetensors", become_a_folder, "directory"),
}


#: What a header may say of a tensor of six float32, whose bytes are 0 to 24.
HEADERS = {
    "no such dtype": {"dtype": "F33"},
    "another dtype": {"dtype": "F64"},
    "another shape": {"shape": [2, 4]},
    "a shape to be guessed": {"shape": [-1, 3]},
    "a shape of text": {"shape": ["2", "3"]},
    "a shape that is none": {"shape": 6},
    "bytes of the header": {"data_offsets": [-24, 0]},
    "bytes behind the end": {"data_offsets": [8, 32]},
    "bytes from the end on": {"data_offsets": [24, 0]},
    "no bytes": {"data_offsets": []},
    "bytes as text": {"data_offsets": ["0", "24"]},
}


@pytest.mark.parametrize("header", [*HEADERS, "list", "number", "text", "too long", "empty"])
def test_a_file_whose_header_cannot_be_is_refused(header: str) -> None:
    """Whatever its checksum says: nothing is guessed, and nothing but ValueError comes out."""
    right = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    texts = {"list": [1], "number": 1, "text": "x" * 9}
    text = json.dumps(texts.get(header, {"x": right | HEADERS.get(header, {})})).encode()
    length = 1 << 60 if header == "too long" else len(text)
    data = length.to_bytes(8, "little") + text + np.arange(6, dtype=np.float32).tobytes()
    with pytest.raises(ValueError):
        decoded(memoryview(b"" if header == "empty" else data))
    data = json.dumps({"x": right}).encode()
    whole = len(data).to_bytes(8, "little") + data + np.arange(6, dtype=np.float32).tobytes()
    assert np.array_equal(decoded(memoryview(whole))["x"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_named_and_passed_over(
    run: RunDir, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The one before it is loaded; the log, the answer and the list say what is wrong with the newer."""
    ending, hurt, words = DAMAGES[damage]
    for step in (1, 2):
        save(run, step, tensors_of(step), {"step": step}, 0)
    hurt(file_of(run, 2, ending))
    with caplog.at_level(logging.WARNING):
        loaded = newest_whole(run)
    assert loaded is not None
    assert (loaded.step, loaded.state) == (1, {"step": 1})
    assert np.array_equal(loaded.tensors["model/kernel"], tensors_of(1)["model/kernel"])
    (problem,) = loaded.broken
    assert words in problem
    assert "step_00000002" in problem
    assert problem in caplog.text
    assert [bool(status.problem) for status in list_checkpoints(run, verify=True)] == [False, True]
    assert prune(run, Retention(1)) == [], "the last whole one is not the newest"


def test_without_a_manifest_there_is_no_checkpoint(run: RunDir) -> None:
    """It is not even broken: a save was interrupted."""
    for step in (1, 2):
        save(run, step, tensors_of(step), {}, 0)
    file_of(run, 2, "manifest.json").unlink()
    loaded = newest_whole(run)
    assert loaded is not None
    assert (loaded.step, loaded.broken) == (1, [])
    with pytest.raises(Broken, match=r"manifest\.json is missing"):
        load(run, 2)


def test_what_no_manifest_names_is_not_read(run: RunDir) -> None:
    """Files of another save beside a whole one's, with tensors of the same names, later in every order."""
    save(run, 1, tensors_of(1), {"who": "named"}, 1)
    whole = {path.name for path in Path(run.url, checkpoint_name(1)).iterdir()}
    other = RunDir(run.url, "other")
    save(other, 1, tensors_of(2), {"who": "nobody"}, 9)
    for path in Path(other.url, checkpoint_name(1)).glob("attempt_*"):
        path.rename(Path(run.url, checkpoint_name(1), path.name))
    loaded = newest_whole(run)
    assert loaded is not None
    assert (loaded.state, loaded.broken) == ({"who": "named"}, [])
    assert np.array_equal(loaded.tensors["model/kernel"], tensors_of(1)["model/kernel"])
    assert len(whole) == 3 and len(list(Path(run.url, checkpoint_name(1)).iterdir())) == 5


def test_what_is_pruned_while_it_is_restored_gives_way_to_the_newer_one(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A training saves and prunes while another command reads: that one gets the newer checkpoint, and no alarm."""
    real, trainer = run.store.get, RunDir(run.url.rpartition("/")[0], run.run_id)
    save(trainer, 1, tensors_of(1), {}, 0)

    def and_meanwhile(name: str) -> bytes:
        data = real(name)
        if name == manifest_name(1) and trainer.store.exists(name):
            save(trainer, 2, tensors_of(2), {}, 0)
            assert prune(trainer, Retention(1)) == [1]
        return data

    monkeypatch.setattr(run.store, "get", and_meanwhile)
    with caplog.at_level(logging.WARNING):
        loaded = newest_whole(run)
    assert loaded is not None
    assert (loaded.step, loaded.broken, caplog.text) == (2, [], "")


def test_nothing_whole_is_none(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    """All broken: none is answered, each is in the log."""
    for step in (1, 2):
        save(run, step, tensors_of(step), {}, 0)
        flip_a_bit(file_of(run, step, ".safetensors"))
    assert newest_whole(run) is None
    assert all(f"step_0000000{step}" in caplog.text for step in (1, 2))


def test_a_newer_format_is_refused(run: RunDir) -> None:
    """Falling back to an older checkpoint would lose the work of the newer Convoy."""
    for step in (1, 2):
        save(run, step, tensors_of(step), {}, 0)
    manifest = run.read_json(manifest_name(2))
    run.write_json(manifest_name(2), {**manifest, "version": 99, "files": "unknown"})
    for use in (
        lambda: newest_whole(run),
        lambda: save(run, 2, tensors_of(2), {}, 1),
        lambda: prune(run, Retention(1)),
    ):
        with pytest.raises(
            BadSpec, match="format version 99, and this Convoy reads versions up to 1 - go on with the newer"
        ):
            use()
    assert run.read_json(manifest_name(2))["version"] == 99
    asked = JobSpec(run_id=run.run_id, storage=StorageSpec(root=run.url.rpartition("/")[0]))
    older, newer = take(asked)["checkpoints"]
    assert (older["problem"], newer["step"]) == (None, 2) and "format version 99" in newer["problem"]


def test_a_whole_checkpoint_is_not_written_again(run: RunDir) -> None:
    """Saving a step twice keeps the first; a broken one is replaced."""
    save(run, 1, tensors_of(1), {"try": 1}, 0)
    save(run, 1, tensors_of(1), {"try": 2}, 1)
    assert load(run, 1)[1] == {"try": 1}
    flip_a_bit(file_of(run, 1, ".safetensors"))
    save(run, 1, tensors_of(1), {"try": 3}, 1)
    assert load(run, 1)[1] == {"try": 3}
    assert len(list(Path(run.url, checkpoint_name(1)).iterdir())) == 3


def test_the_slower_of_two_savers_leaves_the_first_alone(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was thought dead publishes meanwhile: its checkpoint stays whole, ours goes away."""
    real = run.store.put_if_absent

    def late(name: str, data: bytes) -> bool:
        monkeypatch.setattr(run.store, "put_if_absent", real)
        save(run, 1, tensors_of(1), {"who": "thought dead"}, 3)
        return real(name, data)

    monkeypatch.setattr(run.store, "put_if_absent", late)
    save(run, 1, tensors_of(1), {"who": "slower"}, 4)
    assert load(run, 1)[1] == {"who": "thought dead"}
    assert len(list(Path(run.url, checkpoint_name(1)).iterdir())) == 3


def test_one_whose_files_were_cleared_does_not_win(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier attempt, not quite dead, publishes after its files were removed as leftovers: ours replaces it."""
    real = run.store.put_if_absent

    def clear_and_go_on(name: str, data: bytes) -> bool:
        monkeypatch.setattr(run.store, "put_if_absent", publish_the_dead_first)
        save(run, 1, tensors_of(1), {"who": "next attempt"}, 4)
        return real(name, data)

    def publish_the_dead_first(name: str, data: bytes) -> bool:
        monkeypatch.setattr(run.store, "put_if_absent", real)
        dead = json.loads(data) | {"attempt": 3}
        dead["state"]["name"] = "attempt_03-0-state.json"
        assert real(name, json.dumps(dead).encode())
        return real(name, data)

    monkeypatch.setattr(run.store, "put_if_absent", clear_and_go_on)
    save(run, 1, tensors_of(1), {"who": "thought dead"}, 3)
    assert load(run, 1)[1] == {"who": "next attempt"}
    assert len(list(Path(run.url, checkpoint_name(1)).iterdir())) == 3


def test_metrics_that_come_later_change_nothing_else(run: RunDir) -> None:
    """A stop left the evaluation of this step to who goes on; one that is pruned meanwhile stays gone."""
    save(run, 1, tensors_of(1), {"step": 1}, 0, {"validation_loss": 2.0})
    before = file_of(run, 1, "manifest.json").read_text()
    remember(run, 1, {"validation_loss": 2.0})
    assert file_of(run, 1, "manifest.json").read_text() == before
    remember(run, 1, {"validation_loss": 0.1 + 0.2})
    assert json.loads(before) | {"metrics": {"validation_loss": 0.1 + 0.2}} == run.read_json(manifest_name(1))
    (status,) = list_checkpoints(run, verify=True)
    assert (status.metrics, status.problem) == ({"validation_loss": 0.1 + 0.2}, None)
    remember(run, 2, {"validation_loss": 1.0})
    assert saved_steps(run) == [1]


def test_pruning_keeps_the_newest(run: RunDir) -> None:
    """The newest N stay, the others go with all their files."""
    for step in range(1, 6):
        save(run, step, tensors_of(step), {}, 0)
    assert prune(run, Retention(2)) == [1, 2, 3]
    assert saved_steps(run) == [4, 5]
    assert sorted(path.name for path in Path(run.url, "checkpoints").iterdir()) == ["step_00000004", "step_00000005"]
    assert prune(run, Retention(0)) == [4], "the last one stays whatever is asked"
    assert saved_steps(run) == [5]


def test_pruning_never_takes_the_last_whole_one(run: RunDir) -> None:
    """Newer ones are broken: the whole one stays however old it is, and what is older than it goes."""
    for step in range(1, 5):
        save(run, step, tensors_of(step), {}, 0)
    flip_a_bit(file_of(run, 3, ".safetensors"))
    cut_short(file_of(run, 4, ".safetensors"))
    assert prune(run, Retention(1)) == [1]
    loaded = newest_whole(run)
    assert loaded is not None
    assert loaded.step == 2


def test_pruning_takes_nothing_when_nothing_is_whole(run: RunDir) -> None:
    """Somebody may still be able to save something of it."""
    for step in (1, 2):
        save(run, step, tensors_of(step), {}, 0)
        flip_a_bit(file_of(run, step, ".safetensors"))
    assert prune(run, Retention(1)) == []
    assert saved_steps(run) == [1, 2]


def test_pruning_removes_the_manifest_first(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a checkpoint in removal never looks whole, nor broken."""
    for step in (1, 2):
        save(run, step, tensors_of(step), {}, 0)
    monkeypatch.setattr(run.store, "delete_folder", lambda name: None)  # the process dies here
    assert prune(run, Retention(1)) == [1]
    assert not file_exists(run, manifest_name(1))
    assert saved_steps(run) == [2]


def file_exists(run: RunDir, name: str) -> bool:
    """Whether there is a file of that name in the run directory."""
    return Path(run.url, name).exists()


def test_pruning_removes_what_dead_attempts_left(run: RunDir) -> None:
    """Files without a manifest, of this attempt or an earlier one; those of a later attempt are being written."""
    for attempt, step in ((0, 1), (1, 2), (2, 3)):
        save(run, step, tensors_of(step), {}, attempt)
        file_of(run, step, "manifest.json").unlink()
    save(run, 4, tensors_of(4), {}, 1)
    assert prune(run, Retention(5)) == []
    assert len(list(Path(run.url, "checkpoints").iterdir())) == 4, "who does not save removes no leftovers"
    prune(run, Retention(5), attempt=1)
    assert sorted(path.name for path in Path(run.url, "checkpoints").iterdir()) == ["step_00000003", "step_00000004"]


def test_the_writer_saves_in_the_background(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """submit returns before anything is written; a second submit waits for the first; close waits for all."""
    go, begun, real = threading.Event(), threading.Event(), run.store.put_if_absent

    def held(name: str, data: bytes) -> bool:
        begun.set()
        assert go.wait(20)
        return real(name, data)

    monkeypatch.setattr(run.store, "put_if_absent", held)
    told: list[int] = []
    writer = CheckpointWriter(run, attempt=0, keep=Retention(1), on_saved=told.append)
    writer.submit(1, tensors_of(1), {})
    assert begun.wait(20)
    assert saved_steps(run) == told == []
    second = threading.Thread(target=writer.submit, args=(2, tensors_of(2), {}))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "the second submit must wait for the first save"
    go.set()
    second.join()
    writer.close()
    assert told == [1, 2]
    assert saved_steps(run) == [2]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_checkpoint(run: RunDir, wrong: float) -> None:
    """It is named and nothing of it is written; numbers whose squares are too large are still numbers."""
    large = {"model/kernel": np.full((3, 4), 1e30, np.float32), "count": np.array(7)}
    poisoned = large | {"model/bias": np.array([0.0, wrong, 1.0], np.float32)}
    writer = CheckpointWriter(run, attempt=0)
    writer.submit(1, large, {})
    writer.submit(2, poisoned, {})
    with pytest.raises(NotFinite, match="step 2 is not saved: model/bias is not finite"):
        writer.close()
    assert saved_steps(run) == [1] and not Path(run.url, "checkpoints", "step_00000002").exists()


@pytest.mark.parametrize("how", ["submit", "wait", "close"])
def test_an_error_of_the_background_is_raised(run: RunDir, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """By whichever call comes next, once; then the writer goes on."""

    def full(name: str, data: bytes) -> bool:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(run.store, "put_if_absent", full)
        writer = CheckpointWriter(run, attempt=0)
        writer.submit(1, tensors_of(1), {})
        with pytest.raises(StoreError, match="the disk is full"):
            {"submit": lambda: writer.submit(2, tensors_of(2), {}), "wait": writer.wait, "close": writer.close}[how]()
    if how != "close":
        writer.submit(3, tensors_of(3), {})
    writer.close()
    assert saved_steps(run) == ([] if how == "close" else [3])


def test_a_snapshot_is_of_its_step(run: RunDir) -> None:
    """Variables go on changing while their snapshot is written."""
    variable = tf.Variable(tf.zeros(1000))
    writer = CheckpointWriter(run, attempt=0, keep=Retention(20))
    for step in range(1, 11):
        variable.assign_add(tf.ones(1000))
        writer.submit(step, {"x": variable.read_value()}, {})
        for _ in range(3):
            variable.assign_add(tf.ones(1000))
            variable.assign_sub(tf.ones(1000))
    writer.close()
    for step in range(1, 11):
        assert set(load(run, step)[0]["x"]) == {float(step)}


def test_the_manifest_says_what_it_is(run: RunDir) -> None:
    """The format is written down in the file itself, and its files' names are of one save alone."""
    save(run, 3, tensors_of(3), {}, 7)
    manifest = json.loads(file_of(run, 3, "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["step"], manifest["attempt"]) == (
        "convoy-checkpoint",
        1,
        3,
        7,
    )
    names = [manifest["state"]["name"], *(entry["name"] for entry in manifest["tensors"])]
    assert all(name.startswith(f"attempt_07-{manifest['nonce']}-") for name in names)


def test_what_the_training_counts_on_while_a_checkpoint_is_written_is_not_in_it(run):
    writer, state, may_begin = CheckpointWriter(run, attempt=0), {"phase": {"updates": [0]}}, threading.Event()
    writer.submit(5, tensors_of(5), state, first=may_begin.wait)
    state["phase"]["updates"].append(5)  # the phase changes before the file is written
    may_begin.set()
    writer.close()
    assert load(run, 5)[1] == {"phase": {"updates": [0]}}
