"""Sources of labelled images, one file each, found by name.

A source is a module with `examples(data: DataSpec, seed: int) -> Source`. It says what there is; reading, checking,
encoding, splitting and shuffling are done by `data_pipeline.prepare`, so a new source is a few lines. No TensorFlow.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from conf.data_url import PREPARED
from conf.errors import BadSpec
from conf.schema import DataSpec

#: The one split of a source that has no splits of its own: it is split by `data.split`.
ALL = "all"

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class Example(NamedTuple):
    """One labelled image: a path, a file's bytes, pixels [height, width(, channels)], or a function that draws it."""

    image: str | Path | bytes | Pixels | Callable[[], Pixels | bytes]
    label: int
    key: str  # names the example within its source, and in messages
    weight: float = 1.0


@dataclass(frozen=True)
class Source:
    """What a source has: the classes, and the examples of each split (`train`, `validation`, `test`, or `ALL`).

    `files` are those it read besides images that are files of their own; a change of any of them is noticed later.
    """

    classes: list[str]
    splits: Mapping[str, Sequence[Example]]
    files: Sequence[Path] = ()


def known_sources() -> list[str]:
    """The names that `data.name` may have."""
    return sorted([*(module.name for module in pkgutil.iter_modules(__path__)), PREPARED])


def open_source(data: DataSpec, seed: int) -> Source:
    """The source that `data.name` names."""
    source: Source = _module(data).examples(data, seed)
    return source


def reads_no_file(data: DataSpec) -> bool:
    """Whether the source only lists files: it says `READS_NO_FILE = True`. They are read when they are stored."""
    return bool(getattr(_module(data), "READS_NO_FILE", False))


def _module(data: DataSpec) -> Any:
    known = known_sources()
    if data.name not in known or data.name == PREPARED:
        nearest = difflib.get_close_matches(data.name, known, n=1)
        cure = f"did you mean {nearest[0]}? " if nearest else ""
        raise BadSpec.of("data.name", data.name, "there is no such source", f"{cure}known are {', '.join(known)}")
    return importlib.import_module(f"{__name__}.{data.name}")


def local_source(data: DataSpec, what: str) -> Path:
    """`data.path` as a path that exists on this machine; `what` says what should be there."""
    if data.path is None:
        raise BadSpec.of("data.path", None, f"data={data.name} reads {what}", "say which: data.path=PATH")
    if "://" in data.path:
        raise BadSpec.of("data.path", data.path, f"data={data.name} reads {what} on this machine", "copy it here first")
    path = Path(data.path).expanduser().absolute()
    if not path.exists():
        raise BadSpec.of("data.path", data.path, "there is nothing at this path", f"give {what} that exists")
    return path
