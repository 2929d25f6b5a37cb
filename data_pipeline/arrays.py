"""Images that come as arrays: .npz files, IDX files, and the source that is made of them."""

import gzip
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conf.errors import BadSpec
from data_pipeline.sources import ALL, Example, Source

Array = NDArray[np.generic]
#: split -> (images [n, height, width(, channels)], labels [n])
Arrays = dict[str, tuple[Array, Array]]

_NPZ_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_IDX_NAMES = {"train": "train", "test": "t10k"}
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def array_source(arrays: Arrays, classes: list[str] | None, path: str | None) -> Source:
    """The source of these arrays. Without names, classes are called by their number."""
    labels = {split: _labels(split, *pair, path) for split, pair in arrays.items()}
    most = max((int(own.max()) for own in labels.values() if own.size), default=-1)
    if classes is None:
        classes = [f"{number:0{len(str(most))}d}" for number in range(most + 1)]
    splits = {split: _examples(split, arrays[split][0], own.tolist()) for split, own in labels.items()}
    return Source(classes, splits, _files(Path(path)) if path else ())


def _files(path: Path) -> list[Path]:
    path = path.expanduser().absolute()
    return [entry for entry in path.iterdir() if entry.is_file()] if path.is_dir() else [path]


def read_npz(path: Path) -> tuple[Arrays, list[str] | None]:
    """x_train, y_train (and validation, test), or x and y without splits; `classes` may hold names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        what = "it holds Python objects, not plain arrays" if "allow_pickle" in str(error) else str(error)
        raise BadSpec.of("data.path", path, f"this .npz cannot be read: {what}", "write it again") from error
    arrays = {
        split: (stored[f"x_{name}"], stored[f"y_{name}"])
        for split, names in _NPZ_NAMES.items()
        for name in names
        if f"x_{name}" in stored and f"y_{name}" in stored
    }
    if not arrays and "x" in stored and "y" in stored:
        arrays = {ALL: (stored["x"], stored["y"])}
    if not arrays:
        law = f"this .npz has {', '.join(stored) or 'nothing in it'}"
        raise BadSpec.of("data.path", path, law, "save x_train, y_train (x_validation, x_test ...), or x and y")
    return arrays, [str(name) for name in stored["classes"]] if "classes" in stored else None


def read_idx(folder: Path) -> Arrays:
    """MNIST's own files, such as train-images-idx3-ubyte(.gz) and t10k-labels-idx1-ubyte(.gz)."""
    return {
        split: (_idx(_find(folder, name, "images", 3)), _idx(_find(folder, name, "labels", 1)))
        for split, name in _IDX_NAMES.items()
    }


def _find(folder: Path, name: str, what: str, dimensions: int) -> Path:
    stems = [f"{name}-{what}{mark}idx{dimensions}-ubyte" for mark in "-."]
    found = [folder / f"{stem}{end}" for stem in stems for end in ("", ".gz") if (folder / f"{stem}{end}").is_file()]
    if not found:
        raise BadSpec.of("data.path", folder, f"{stems[0]} (or .gz) is missing", "all four IDX files belong there")
    return found[0]


def _idx(path: Path) -> Array:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
        if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
            raise ValueError("it does not begin like one")
        shape = np.frombuffer(data, ">u4", data[3], 4).astype(int)
        return np.frombuffer(data, _IDX_TYPES[data[2]], int(np.prod(shape)), 4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadSpec.of("data.path", path, f"this IDX file cannot be read: {error}", "fetch it again") from error


def _labels(split: str, images: Array, labels: Array, path: str | None) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    law = None
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        law = f"x of {split} has shape {list(images.shape)}, not [n, height, width] or [n, height, width, 1 or 3]"
    elif images.dtype not in (np.uint8, np.uint16):
        law = f"x of {split} is {images.dtype}; pixels are uint8 (0..255) or uint16"
    elif labels.ndim != 1 or labels.dtype.kind not in "iu":
        law = f"y of {split} is {labels.dtype} {list(labels.shape)}; labels are integers [n]"
    elif len(labels) != len(images):
        law = f"{split} has {len(images)} images and {len(labels)} labels"
    elif labels.size and labels.min() < 0:
        law = f"{split} has the label {labels.min()}"
    if law:
        raise BadSpec.of("data.path", path, law, "mend the arrays")
    return labels.astype(np.int64)


def _examples(split: str, images: Array, labels: list[int]) -> list[Example]:
    return [Example(images[index], label, f"{split}/{index:08d}") for index, label in enumerate(labels)]
