"""The shards of a split as open files with their offsets: what is asked of them, and what is checked of their files.

On a disk of this machine they are `NearShards`; far away, read through the cache, they are `FarShards`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import Shard
from data_pipeline.records import CorruptRecord

PAIR_BYTES = 16
CURE = "fetch or prepare the set again"

#: Groups of shards in the order they will be read.
Groups = Iterator[list[int]]


class OpenShard(NamedTuple):
    """A shard that can be read: the file, and where its Examples are, [examples, 2] offsets and lengths."""

    file: int
    places: NDArray[np.uint64]


class ShardFiles(Protocol):
    """Opens the shards of a split by number. CorruptRecord where one is not what the manifest says."""

    def open(self, number: int, records: int = 1) -> contextlib.AbstractContextManager[OpenShard]:
        """The shard, for as long as the block lasts, in which so many records are read."""

    def follow(self, groups: Callable[[], Groups]) -> None:
        """Expect the shards in this order."""

    def damaged_copy(self, number: int) -> bool:
        """Whether a copy of the shard was what is damaged; it is gone now, so another try is worth it."""

    def close(self) -> None:
        """Give the files back."""


def check_index(url: str, path: Path, shard: Shard) -> None:
    """Raise CorruptRecord where an index is not the manifest's."""
    check_size(url, path, shard.num_examples * PAIR_BYTES, "index")
    if shard.index_crc32c:
        with path.open("rb") as file:
            if crc_of(file.fileno()) != shard.index_crc32c:
                raise CorruptRecord(f"{url}: the index is damaged - its checksum is not the manifest's - {CURE}")


def check_size(url: str, path: Path, expected: int, what: str) -> None:
    """Raise CorruptRecord where a file is missing or cut off."""
    if not path.exists():
        raise missing(url, what)
    size = path.stat().st_size
    if size != expected:
        raise CorruptRecord(f"{url}: has {size} bytes, the manifest says {expected} - {CURE}")


def missing(url: str, what: str) -> CorruptRecord:
    """The error for a file that the manifest names and that is not there."""
    return CorruptRecord(f"{url}: the {what} is missing - the manifest names it - {CURE}")


def crc_of(file: int) -> int:
    """The crc32c of an open file's content."""
    crc, offset = 0, 0
    while chunk := os.pread(file, 4 << 20, offset):
        crc, offset = google_crc32c.extend(crc, chunk), offset + len(chunk)
    return crc
