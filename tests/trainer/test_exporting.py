"""An export that is there is whole, whatever happens to the next one."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from conf.schema import CheckpointsSpec, JobSpec, KerasFormat
from storage.run_dir import KERAS_FILES, RunDir
from trainer.channel import Terminal
from trainer.export.saved_model import replace_folder
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


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment is a part of the old one under its name: that would look like an export."""
    folder, seen = tmp_path / "saved_model", []
    real = Path.rename

    def look(path: Path, target: Path) -> Path:
        seen.append(sorted(one.name for one in folder.iterdir()) if folder.exists() else None)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", look)
    for names in (["a", "b", "c"], ["b", "d"]):
        fresh = tmp_path / "saved_model.part"
        fresh.mkdir()
        for name in names:
            (fresh / name).write_text(name)
        replace_folder(folder, fresh)
        assert sorted(one.name for one in folder.iterdir()) == names
    assert [one.name for one in tmp_path.iterdir()] == ["saved_model"]
    assert seen == [None, ["a", "b", "c"], None]
