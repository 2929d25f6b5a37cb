"""Where stored weights are: a file of Keras's here, in a bucket or on the web, or a run of Convoy's.

Nothing of a file is run: of a .keras file the weights alone are read, and all HDF5 files by the names in them.
"""

import contextlib
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from storage.run_dir import CHECKPOINTS, RunDir, checkpoint_step
from storage.store import StoreError, open_store
from trainer import checkpoints
from trainer.checkpoint_files import Broken
from trainer.pretrained.hdf5 import SEEDS, read_layers
from trainer.pretrained.matching import Layers, Stored

WEIGHTS_IN_KERAS = "model.weights.h5"
SUFFIXES = (".h5", ".hdf5", ".keras")
_TIMEOUT_S = 60.0
#: A file in a ZIP archive that says it is so many times larger than what it takes up is no weights.
_MOST_EXPANSION = 100


class Unreadable(Exception):
    """There are no weights there, or they cannot be read; says why."""


@contextlib.contextmanager
def layers_at(url: str) -> Iterator[Layers]:
    """The weights stored at a path or URL. Raises Unreadable, or BadSpec for a checkpoint of a newer format."""
    if not url.partition("?")[0].endswith(SUFFIXES):
        yield _checkpoint(url)
        return
    with tempfile.TemporaryDirectory(prefix="convoy-weights-") as folder:
        try:
            file = _hdf5(_fetched(url, Path(folder)), Path(folder))
            with h5py.File(file, "r") as opened:
                yield read_layers(opened)
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise Unreadable(f"it cannot be read: {(str(error).splitlines() or [repr(error)])[0]}") from error


def _fetched(url: str, folder: Path) -> Path:
    """The file on this machine: where it lies, or a copy in `folder`."""
    scheme, far, _ = url.partition("://")
    if not far:
        path = Path(url).expanduser()
        if not path.is_file():
            raise Unreadable("there is no such file of weights")
        return path
    parent, _, name = url.rpartition("/")
    copy = folder / "fetched"
    try:
        if scheme in ("http", "https"):
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, copy.open("wb") as out:
                shutil.copyfileobj(answer, out)
        else:
            open_store(parent).get_file(name, copy)
    except (StoreError, urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise Unreadable(f"it cannot be fetched: {error}") from error
    return copy


def _hdf5(path: Path, folder: Path) -> Path:
    """The HDF5 file that `path` is, or that a .keras file at `path` has in it."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        if WEIGHTS_IN_KERAS not in archive.namelist():
            raise Unreadable(f"this ZIP file has no {WEIGHTS_IN_KERAS} in it, so it is no .keras file")
        info = archive.getinfo(WEIGHTS_IN_KERAS)
        if info.file_size > _MOST_EXPANSION * max(info.compress_size, 1):
            raise Unreadable(f"its {WEIGHTS_IN_KERAS} says it is {info.file_size} bytes from {info.compress_size}")
        inside = folder / WEIGHTS_IN_KERAS
        with archive.open(info) as stored, inside.open("wb") as out:
            _copy(stored, out, info.file_size)
    return inside


def _copy(stored: IO[bytes], out: IO[bytes], most: int) -> None:
    while chunk := stored.read(min(1 << 20, most)):
        most -= len(chunk)
        out.write(chunk)


def _checkpoint(url: str) -> Layers:
    """The model's part of a run's newest whole checkpoint, or of the one that `url` names.

    Where averages of the weights were kept, the averages: what was evaluated and exported, not what trained on.
    """
    root, _, name = url.rstrip("/").rpartition("/")
    step = checkpoint_step(f"{CHECKPOINTS}/{name}")
    if step is not None:
        root, _, name = root.removesuffix(f"/{CHECKPOINTS}").rpartition("/")
    try:
        run = RunDir(root or ("/" if url.startswith("/") else "."), name)
        if step is not None:
            tensors, _ = checkpoints.load(run, step)
        else:
            found = checkpoints.newest_whole(run)
            if found is None:
                raise Unreadable("there is no file of weights, and no run with a whole checkpoint")
            tensors = found.tensors
    except (Broken, StoreError) as error:
        raise Unreadable(str(error)) from error
    layers: dict[tuple[str, ...], dict[str, Stored]] = {}
    for key, array in tensors.items():
        kind, _, path = key.partition("/")
        *layer, variable = path.split("/")
        if kind == "model" and layer and not layer[-1].startswith(SEEDS):
            layers.setdefault(tuple(layer), {})[variable] = _in_memory(tensors.get(f"ema/{path}", array))
    return layers


def _in_memory(array: np.ndarray) -> Stored:
    return Stored(array.shape, lambda: array)
