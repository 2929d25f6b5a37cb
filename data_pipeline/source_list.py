"""The files that a set is made of, listed while its shards are written, and marked when they are."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.listing import Listing
from data_pipeline.shards import ShardNote, ShardPlan
from data_pipeline.sources import Source
from storage.source_files import file_state, finished_lines, line_starts

_NO_FILE = -1


class _Listed(NamedTuple):
    """Each line up to its mark, and for each shard which lines are its examples', or _NO_FILE."""

    starts: list[str]
    rows: list[NDArray[np.int64]]


class SourceList:
    """Every file below a source, and the others that its examples were made of.

    `found` are the images below the source `path`, as they were before any was read.
    """

    def __init__(self, path: Path, found: Listing, source: Source, plans: Sequence[ShardPlan]):
        self._root = path if path.is_dir() else path.parent
        self._found, self._source, self._plans = found, source, plans

    def make_ready(self) -> None:
        """Do now what can be done before the shards are finished."""
        _ = self._listed, [plan.identity for plan in self._plans]

    def lines(self, notes: Sequence[ShardNote]) -> bytes:
        """What SOURCE_FILES holds, with the marks that the notes have of the files that were read."""
        starts, rows = self._listed
        marks = np.full(len(starts) + 1, -1, np.int64)  # the last is of examples that are no files
        for plan, own, note in zip(self._plans, rows, notes, strict=True):
            if note.skipped:
                own = own[[each.key not in note.skipped for each in plan.examples]]
            read = np.frombuffer(bytes.fromhex(note.file_marks), ">u4")
            marks[own[: len(read)]] = read
        return finished_lines(starts, [None if mark < 0 else mark for mark in marks[:-1].tolist()])

    @cached_property
    def _listed(self) -> _Listed:
        above, states = f"{self._root}/", self._found.states()
        files = [[_name(above, each.image) for each in plan.examples] for plan in self._plans]
        others = {_name(above, file) for file in self._source.files} - states.keys()
        for names in files:
            others.update(name for name in names if name not in states)
        for name in filter(None, others):
            state = file_state(self._root / name)
            if state is not None:
                states[name] = state
        row = {name: number for number, name in enumerate(sorted(states))}
        rows = [np.array([row.get(name or "", _NO_FILE) for name in names], np.int64) for names in files]
        return _Listed(line_starts({name: states[name] for name in row}), rows)


def _name(above: str, image: object) -> str | None:
    """The name below the source; of a file that lies elsewhere its whole path, which `root / name` leaves as it is."""
    if isinstance(image, str):
        return image.removeprefix(above)
    return str(image).removeprefix(above) if isinstance(image, Path) else None
