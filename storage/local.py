"""A store on a disk, or on a network file system that all hosts see.

An object appears by a rename (or, for `put_if_absent`, a hard link) of a file that was written completely and synced,
so a killed process or a full disk leaves either the old object or the new one.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote, urlparse

from storage.local_group import LocalGroup
from storage.names import UNFINISHED, checked_name, checked_prefix, disk_errors
from storage.store import Group, KnownCrc, Stored, StoreError
from storage.whole_files import Chunks, chunks_of, file_chunks, sweep, sync_folder, unfinished, write


def open(url: str) -> "LocalStore":
    """The store in the folder `url`: a plain path or file:///path. The folder is made with the first object."""
    if not url.startswith("file://"):
        return LocalStore(Path(url))
    parsed = urlparse(url)
    if parsed.netloc not in ("", "localhost") or not parsed.path.startswith("/"):
        raise StoreError(f"{url}: a file:// URL names a path of this host - write file:///absolute/path")
    return LocalStore(Path(unquote(parsed.path)))


class LocalStore:
    """A folder of this machine. See `storage.store.Store`."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.url = str(self.root)

    def put(self, name: str, data: bytes) -> None:
        """Write `data` under `name`, replacing what was there."""
        self.put_buffers(name, [data])

    def put_buffers(self, name: str, buffers: Sequence[bytes | memoryview]) -> Stored:
        """Write the buffers one after the other under `name`."""
        return self._publish(name, chunks_of(buffers))

    def put_file(self, name: str, path: Path) -> Stored:
        """Copy the local file `path` to `name`."""
        with self._errors("put", name):
            return self._publish(name, file_chunks(path))

    def put_chunks(self, name: str, chunks: Iterable[bytes], crc32c: KnownCrc | None = None) -> Stored:
        """Write what `chunks` makes under `name`, as it is made."""
        return self._publish(name, chunks, crc32c)

    @contextlib.contextmanager
    def together(self) -> Iterator[Group]:
        """Objects that are synced, and then named, when the block ends."""
        group = LocalGroup(self.root, self.url)
        try:
            yield group
            group.publish()
        finally:
            group.close()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write `data` unless `name` exists; say whether this call wrote it."""
        final = self._path(name)
        with self._errors("put", name):
            with unfinished(final) as temporary:
                write(temporary.file, chunks_of([data]))
                try:
                    os.link(temporary.path, final)
                except FileExistsError:
                    return False
            sync_folder(final.parent)
            return True

    def get(self, name: str) -> bytes:
        """The object's bytes."""
        path = self._path(name)
        with self._errors("read", name):
            return path.read_bytes()

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the object's end."""
        path = self._path(name)
        with self._errors("read", name), path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def get_file(self, name: str, path: Path) -> None:
        """Copy the object to the local file `path`, which appears whole or not at all."""
        source = self._path(name)
        with self._errors("read", name), unfinished(path) as temporary:
            write(temporary.file, file_chunks(source))
            os.replace(temporary.path, path)

    def list(self, prefix: str = "") -> Iterable[Stored]:
        """All objects whose name starts with `prefix`, sorted by name."""
        checked_prefix(self.url, prefix)
        with self._errors("list", prefix):
            return sorted(self._walk(prefix), key=lambda stored: stored.name)

    def list_folders(self) -> Iterable[str]:
        """The names of the folders directly in the store, sorted; what lies in them is not looked at."""
        with self._errors("list", ""), contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
        return []

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        with self._errors("look for", name):
            return self._path(name).is_file()

    def delete(self, name: str) -> None:
        """Remove the object; no error when it is gone already."""
        path = self._path(name)
        with self._errors("delete", name), contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def delete_folder(self, name: str) -> None:
        """Remove every object below `name/`, and what interrupted writers left there."""
        folder = self._path(name)
        with self._errors("delete", name), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
            sync_folder(folder.parent)

    def sweep(self) -> None:
        """Remove unfinished files directly in the folder whose writers are gone."""
        with self._errors("sweep", ""):
            sweep(self.root)

    def local_path(self, name: str) -> Path | None:
        """Where the object lies on this machine's disk."""
        return self._path(name)

    def check_writable(self) -> None:
        """Write, read back and remove a small object; raise StoreError with the cause if that cannot be done."""
        name, data = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
        try:
            if not self.put_if_absent(name, data) or self.get(name) != data:
                raise StoreError(f"{self.url}: what was written does not read back - look at the disk")
        finally:
            self.delete(name)

    def _path(self, name: str) -> Path:
        return self.root / checked_name(self.url, name)

    def _publish(self, name: str, chunks: Chunks, known: KnownCrc | None = None) -> Stored:
        final = self._path(name)
        with self._errors("put", name):
            with unfinished(final) as temporary:
                size, crc32c = write(temporary.file, chunks, known)
                os.replace(temporary.path, final)
            sync_folder(final.parent)
        return Stored(name, size, crc32c)

    def _walk(self, prefix: str) -> Iterator[Stored]:
        start = self.root / prefix.rpartition("/")[0]
        for folder, _, files in os.walk(start):
            for file in files:
                name = (Path(folder) / file).relative_to(self.root).as_posix()
                if name.startswith(prefix) and not name.endswith(UNFINISHED):
                    with contextlib.suppress(FileNotFoundError):  # deleted while we looked
                        yield Stored(name, os.stat(os.path.join(folder, file)).st_size)

    def _errors(self, what: str, name: str) -> AbstractContextManager[None]:
        return disk_errors(what, f"{self.url}/{name}")
