"""A store on a disk, or on a network file system that all hosts see.

An object appears by a rename (or, for `put_if_absent`, a hard link) of a file that was written completely and synced,
so a killed process or a full disk leaves either the old object or the new one.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

import google_crc32c

from storage.names import UNFINISHED, checked_name, checked_prefix, disk_error
from storage.store import Stored, StoreError

CHUNK_BYTES = 4 << 20
GATHER_BYTES = 1 << 20
GATHER_CHUNKS = 256  # the kernel takes 1024


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
        return self._publish(name, _chunks(buffers))

    def put_file(self, name: str, path: Path) -> Stored:
        """Copy the local file `path` to `name`."""
        with self._errors("put", name):
            return self._publish(name, _file_chunks(path))

    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> Stored:
        """Write what `chunks` makes under `name`, as it is made."""
        return self._publish(name, chunks)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write `data` unless `name` exists; say whether this call wrote it."""
        final = self._path(name)
        with self._errors("put", name):
            with _unfinished(final) as temporary:
                _write(temporary, _chunks([data]))
                try:
                    os.link(temporary, final)
                except FileExistsError:
                    return False
            _sync_folder(final.parent)
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
        with self._errors("read", name), _unfinished(path) as temporary:
            _write(temporary, _file_chunks(source))
            os.replace(temporary, path)

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
            _sync_folder(path.parent)

    def delete_folder(self, name: str) -> None:
        """Remove every object below `name/`, and what interrupted writers left there."""
        folder = self._path(name)
        with self._errors("delete", name), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
            _sync_folder(folder.parent)

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

    def _publish(self, name: str, chunks: Iterable[bytes | memoryview]) -> Stored:
        final = self._path(name)
        with self._errors("put", name):
            with _unfinished(final) as temporary:
                size, crc32c = _write(temporary, chunks)
                os.replace(temporary, final)
            _sync_folder(final.parent)
        return Stored(name, size, crc32c)

    def _walk(self, prefix: str) -> Iterator[Stored]:
        start = self.root / prefix.rpartition("/")[0]
        for folder, _, files in os.walk(start):
            for file in files:
                name = (Path(folder) / file).relative_to(self.root).as_posix()
                if name.startswith(prefix) and not name.endswith(UNFINISHED):
                    with contextlib.suppress(FileNotFoundError):  # deleted while we looked
                        yield Stored(name, os.stat(os.path.join(folder, file)).st_size)

    @contextlib.contextmanager
    def _errors(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(what, f"{self.url}/{name}", error) from error


@contextlib.contextmanager
def _unfinished(final: Path) -> Iterator[Path]:
    """A temporary name beside `final`, gone at the end whatever happens."""
    _make_folder(final.parent)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make the folder so that it outlives a power cut: each parent is synced after it has a new child."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, int]:
    """Write and sync a new file; its size and crc32c."""
    size = crc32c = 0
    with path.open("xb", buffering=0) as file:
        for gathered in _gathered(chunks):
            _write_all(file.fileno(), gathered)
            for chunk in gathered:
                crc32c = google_crc32c.extend(crc32c, bytes(chunk))
                size += len(chunk)
        os.fsync(file.fileno())
    return size, crc32c


def _gathered(chunks: Iterable[bytes | memoryview]) -> Iterator[list[bytes | memoryview]]:
    """Small chunks together: the kernel takes a megabyte at once at half the cost of ten pieces of it."""
    waiting: list[bytes | memoryview] = []
    num_bytes = 0
    for chunk in chunks:
        waiting.append(chunk)
        num_bytes += len(chunk)
        if num_bytes >= GATHER_BYTES or len(waiting) >= GATHER_CHUNKS:
            yield waiting
            waiting, num_bytes = [], 0
    if waiting:
        yield waiting


def _write_all(descriptor: int, buffers: Sequence[bytes | memoryview]) -> None:
    written = os.writev(descriptor, buffers)
    for buffer in buffers:
        if written >= len(buffer):
            written -= len(buffer)
            continue
        rest = memoryview(buffer)[written:]  # a full disk or a signal: what is left, piece by piece
        written = 0
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _chunks(buffers: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
