"""An export that is there is whole, whatever happens to the next one."""

import contextlib
import os
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from conf.schema import CheckpointsSpec, JobSpec, KerasFormat
from storage.run_dir import KERAS_FILES, RunDir
from trainer.channel import Terminal
from trainer.export.fresh import LEFT_S, fresh_path, replace_folder
from trainer.exporting import keras_file


class Full(keras.Sequential):
    """A model whose file finds the disk full half-way."""

    def save(self, filepath: Path, *_: object, **__: object) -> None:
        Path(filepath).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    save_weights = save


@pytest.mark.parametrize("kind", list(KerasFormat))
def test_a_keras_file_that_fails_leaves_the_one_before(tmp_path: Path, kind: KerasFormat) -> None:
    run, layers = RunDir(str(tmp_path), "x"), [keras.Input((3,)), keras.layers.Dense(2)]
    job = JobSpec(checkpoints=CheckpointsSpec(export=kind))
    model, full = keras.Sequential(layers), Full(layers)
    session = SimpleNamespace(job=job, channel=Terminal(False), averaged=contextlib.nullcontext, model=model)
    keras_file(session, run)
    path = run.local(KERAS_FILES[kind.name])
    before = path.read_bytes()
    if kind is KerasFormat.keras:
        loaded = keras.saving.load_model(path)
        assert np.array_equal(loaded.get_weights()[0], model.get_weights()[0]) and loaded.get_weights()[0].any()
    with pytest.raises(OSError, match="No space left"):
        keras_file(SimpleNamespace(**vars(session) | {"model": full}), run)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text(name)
    return path


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment is a part of the old one under its name: that would look like an export."""
    folder, seen = tmp_path / "saved_model", []
    real = Path.rename

    def look(path: Path, target: Path) -> Path:
        seen.append(sorted(one.name for one in folder.iterdir()) if folder.exists() else None)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", look)
    for names in (["a", "b", "c"], ["b", "d"]):
        replace_folder(folder, folder_with(fresh_path(folder), *names))
        assert sorted(one.name for one in folder.iterdir()) == names
    assert [one.name for one in tmp_path.iterdir()] == ["saved_model"]
    assert seen == [None, None, ["a", "b", "c"], None]


def test_of_two_exports_at_the_same_time_one_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes between the two renames of the first."""
    folder, real = folder_with(tmp_path / "saved_model", "old"), Path.rename
    mine, other = folder_with(fresh_path(folder), "a", "b"), folder_with(fresh_path(folder), "c")

    def late(path: Path, target: Path) -> Path:
        if path == mine and other.exists():
            real(other, folder)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", late)
    replace_folder(folder, mine)
    assert sorted(one.name for one in folder.iterdir()) == ["a", "b"]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_exchange_that_fails_leaves_the_folder_before(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "saved_model", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(folder, tmp_path / "never written")
    assert [one.name for one in folder.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [folder]


def test_what_killed_exports_left_goes_after_a_day(tmp_path: Path) -> None:
    for name in ("model.keras", "saved_model"):
        final = tmp_path / name
        kept, left, folder = (fresh_path(final) for _ in range(3))
        kept.write_text("being written")
        left.write_text("left")
        folder_with(folder, "left")
        for path in (left, folder):
            os.utime(path, (time.time() - 2 * LEFT_S,) * 2)
        fresh = fresh_path(final)
        assert (kept.exists(), left.exists(), folder.exists(), fresh.exists()) == (True, False, False, False)
        assert fresh.name.endswith(name)
