"""The protocol every store speaks, and `open_store`, which finds the one for a URL.

A store is a folder somewhere. Names inside it are relative, with forward slashes. An object is whole or absent: `put`,
`put_file` and `put_if_absent` publish all of it or nothing, however the process ends.
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Stored:
    """One object of a store. `crc32c` is None where the store would have to read the object to know it."""

    name: str
    size: int
    crc32c: int | None = None


#: The crc32c of all chunks, asked for when the last of them is made.
KnownCrc = Callable[[], int]


class StoreError(Exception):
    """A store did not do what was asked, after the retries it deserved. Says what, where and the cause."""


class StoreFull(StoreError):
    """There is no room left: no retry helps before somebody has made some."""


class StoreAway(StoreError):
    """The store cannot be reached, or does not do what it is asked at the moment: the same may be done later."""


class NotStored(StoreError):
    """There is no object of that name."""


class Group(Protocol):
    """Objects that are published together: `put` and its like as a `Store` has them, but done when the group ends."""

    def put(self, name: str, data: bytes) -> None:
        """Write `data` under `name`."""

    def put_buffers(self, name: str, buffers: Sequence[bytes | memoryview]) -> Stored:
        """The same of content that lies in several places in memory."""

    def put_chunks(self, name: str, chunks: Iterable[bytes], crc32c: KnownCrc | None = None) -> Stored:
        """The same of content that is made while it is written."""

    def delete(self, name: str) -> None:
        """Remove the object, behind everything that was put."""


class Store(Protocol):
    """A folder of immutable-ish objects, near or far. Raises StoreError, NotStored."""

    url: str

    def put(self, name: str, data: bytes) -> None:
        """Write `data` under `name`, replacing what was there."""

    def put_buffers(self, name: str, buffers: Sequence[bytes | memoryview]) -> Stored:
        """Like `put`, for large content that lies in several places in memory: nothing is joined or copied first."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write `data` unless `name` exists; say whether this call wrote it. Exactly one of many callers wins."""

    def put_file(self, name: str, path: Path) -> Stored:
        """Copy the local file `path` to `name`; the answer carries its size and crc32c."""

    def put_chunks(self, name: str, chunks: Iterable[bytes], crc32c: KnownCrc | None = None) -> Stored:
        """Like `put`, for content that is made while it is written; an error in making it leaves nothing.

        With `crc32c` the maker's checksum is the object's, and memory is not read once more for it.
        """

    def together(self) -> AbstractContextManager[Group]:
        """A block whose objects are published when it ends, in their order, faster than one by one.

        Each of them is whole or absent, as always; not all or none of them. An error in the block leaves none that a
        disk would hold, while a far store may have published the first.
        """

    def get(self, name: str) -> bytes:
        """The object's bytes."""

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the object's end."""

    def get_file(self, name: str, path: Path) -> None:
        """Copy the object to the local file `path`, which appears whole or not at all."""

    def list(self, prefix: str = "") -> Iterable[Stored]:
        """All objects whose name starts with `prefix`, sorted by name."""

    def list_folders(self) -> Iterable[str]:
        """The names of the folders directly in the store, sorted; what lies in them is not looked at."""

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""

    def delete(self, name: str) -> None:
        """Remove the object; no error when it is gone already."""

    def delete_folder(self, name: str) -> None:
        """Remove every object below `name/`, and what interrupted writers left there."""

    def sweep(self) -> None:
        """Remove what writers that were killed have left directly in the store, where such a thing can be."""

    def local_path(self, name: str) -> Path | None:
        """Where the object lies on this machine's disk, so that it can be mapped or appended to; None if far away."""

    def check_writable(self) -> None:
        """Write, read back and remove a small object; raise StoreError with the cause if that cannot be done."""


def open_store(url: str) -> Store:
    """The store at `url`: `<scheme>://...` is served by the module `storage.<scheme>`, a plain path by `storage.local`.

    Each such module has a function `open(url) -> Store`, so a third store is one more file.
    """
    scheme, separator, _ = url.partition("://")
    module = {"gs": "gcs", "file": "local"}.get(scheme, scheme) if separator else "local"
    try:
        opener = importlib.import_module(f"storage.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"storage.{module}":
            raise
        raise StoreError(f"{url}: no store for {scheme}:// - known are plain paths, file:// and gs://") from error
    return opener.open(url)
