"""The files below a source, looked at by two processes where there are many.

Asking each file for its size and its time takes longer than all else that is done for it before the writing begins,
and nothing is written meanwhile: what one process does alone is what more of them cannot make faster.
"""

import mmap
import os
from collections.abc import Callable, Iterable
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.parts import share
from data_pipeline.progress import Progress
from storage.source_files import FileState, FileStates, image_names

_FILES_A_PIECE = 256
#: Fewer are looked at in the time that a second process takes to begin.
_WORTH_A_HELPER = 2000
_NOWHERE = (0, 0)  # the state of a link that leads nowhere, which is named when it is read


def _nothing() -> None:
    pass


class Listing:
    """Every image below a folder by its name, and its state before any was read. Nothing, when it is no folder."""

    def __init__(self, root: Path):
        self._above = f"{root}/"
        self._names = image_names(str(root)) if root.is_dir() else []
        self._pieces = range(-(-len(self._names) // _FILES_A_PIECE))
        # Whoever looked at a piece writes what it saw to where the other sees it too.
        memory = mmap.mmap(-1, max(1, 16 * len(self._names) + len(self._pieces)))
        self._seen = np.frombuffer(memory, np.int64, 2 * len(self._names)).reshape(-1, 2)  # bytes and ns
        self._is_seen = np.frombuffer(memory, np.uint8, len(self._pieces), self._seen.nbytes)

    def look(
        self, processes: int, explain: Callable[[Exception], dict[str, Any]], meanwhile: Callable[[], None] = _nothing
    ) -> None:
        """Look at every file, and do `meanwhile`. PartFailed when the helper was killed; `explain` as `parts.share`."""

        def meet() -> None:
            meanwhile()
            self._look(reversed(self._pieces))

        if processes < 2 or len(self._names) < _WORTH_A_HELPER:
            return meet()
        # The helper goes from the first piece on, this process from the last towards it.
        share(self._pieces, 1, lambda piece, _: self._look([piece]), Progress(0), explain, meet)

    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes, by its path."""
        return dict(zip([self._above + name for name in self._names], self._seen[:, 0].tolist(), strict=True))

    def states(self) -> FileStates:
        """The state of each file, by its name."""
        return dict(zip(self._names, starmap(FileState, self._seen.tolist()), strict=True))

    def _look(self, pieces: Iterable[int]) -> None:
        """Look at pieces until one is met that was looked at."""
        for piece in pieces:
            if self._is_seen[piece]:
                return
            rows = slice(piece * _FILES_A_PIECE, (piece + 1) * _FILES_A_PIECE)
            self._seen[rows] = [_state(self._above + name) for name in self._names[rows]]
            self._is_seen[piece] = True


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return _NOWHERE
    return found.st_size, found.st_mtime_ns
