"""Several objects of a folder that are written one after the other and published together.

A sync waits for the disk. Here the disk begins to take a file while the next is made, all are synced at the end, and
their folder once for all of them.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from storage.names import checked_name, disk_errors
from storage.store import KnownCrc, Stored
from storage.whole_files import Chunks, Unfinished, chunks_of, open_unfinished, sync_folder, write_into


class _Written(NamedTuple):
    """A file that has all its bytes and not yet its name."""

    name: str
    temporary: Unfinished


class LocalGroup:
    """See `storage.store.Group`."""

    def __init__(self, root: Path, url: str):
        self._root, self._url = root, url
        self._written: list[_Written] = []
        self._deleted: list[str] = []

    def put(self, name: str, data: bytes) -> None:
        """Write `data`; it becomes `name` at the end."""
        self.put_buffers(name, [data])

    def put_buffers(self, name: str, buffers: Sequence[bytes | memoryview]) -> Stored:
        """The same of content that lies in several places."""
        return self._write(name, chunks_of(buffers))

    def put_chunks(self, name: str, chunks: Iterable[bytes], crc32c: KnownCrc | None = None) -> Stored:
        """The same of content that is made while it is written."""
        return self._write(name, chunks, crc32c)

    def delete(self, name: str) -> None:
        """Remove the object, when everything that was put is there; no error when it is gone already."""
        checked_name(self._url, name)
        self._deleted.append(name)

    def publish(self) -> None:
        """Sync all files, then name them in the order in which they were put, then remove, then sync the folders."""
        for written in self._written:
            with self._errors("put", written.name):
                os.fsync(written.temporary.file.fileno())
        for written in self._written:
            with self._errors("put", written.name):
                os.replace(written.temporary.path, self._root / written.name)
        for name in self._deleted:
            with self._errors("delete", name):
                (self._root / name).unlink(missing_ok=True)
        for folder in {(self._root / name).parent for name in self._names()}:
            with self._errors("sync", folder.name), contextlib.suppress(FileNotFoundError):
                sync_folder(folder)

    def close(self) -> None:
        """Remove what was not published."""
        for written in self._written:
            written.temporary.close()

    def _names(self) -> Iterator[str]:
        yield from (written.name for written in self._written)
        yield from self._deleted

    def _write(self, name: str, chunks: Chunks, known: KnownCrc | None = None) -> Stored:
        final = self._root / checked_name(self._url, name)
        with self._errors("put", name):
            temporary = open_unfinished(final)
            self._written.append(_Written(name, temporary))
            return Stored(name, *write_into(temporary.file, chunks, known, sending=True))

    def _errors(self, what: str, name: str) -> AbstractContextManager[None]:
        return disk_errors(what, f"{self._url}/{name}")
