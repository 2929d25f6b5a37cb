"""Files of a disk that appear whole or not at all: written beside their place, synced, then named.

What is synced outlives a power cut. A killed process leaves files whose names end in UNFINISHED, and nothing else. Who
writes one holds its lock (flock), which ends with the process however it ends: `sweep` removes what nobody holds.
"""

import contextlib
import errno
import fcntl
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from storage.direct import Output
from storage.names import UNFINISHED
from storage.store import KnownCrc

CHUNK_BYTES = 4 << 20
GATHER_BYTES = 2 << 20
GATHER_CHUNKS = 256  # the kernel takes 1024
#: So many bytes at a time are sent to the disk while more are made.
SENT_BYTES = 8 << 20

Chunks = Iterable[bytes | memoryview]

_TOKEN_BYTES = 8
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}{re.escape(UNFINISHED)}")
#: What flock says on a file system without locks: there nothing is locked, and nothing swept.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Unfinished(NamedTuple):
    """A new file under a temporary name. It is this process's own as long as it is open."""

    path: Path
    file: io.FileIO

    def close(self) -> None:
        """Remove the name, if the file still has it, and let go."""
        self.path.unlink(missing_ok=True)
        self.file.close()


@contextlib.contextmanager
def unfinished(final: Path) -> Iterator[Unfinished]:
    """A new file beside `final`, whose temporary name is gone at the end whatever happens."""
    temporary = open_unfinished(final)
    try:
        yield temporary
    finally:
        temporary.close()


def open_unfinished(final: Path) -> Unfinished:
    """A new file beside `final` under a name that nobody has. Its folder is made if need be."""
    make_folder(final.parent)
    while True:
        path = final.with_name(f".{final.name}.{secrets.token_hex(_TOKEN_BYTES)}{UNFINISHED}")
        file = path.open("xb", buffering=0)
        if _hold(file) and os.fstat(file.fileno()).st_nlink:
            return Unfinished(path, file)
        Unfinished(path, file).close()  # it was swept away before it was held


def sweep(folder: Path) -> None:
    """Remove what writers that are gone have left in the folder; nothing that a process of any host still writes."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in list(entries):
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_if_left(Path(entry.path))


def _remove_if_left(path: Path) -> None:
    # Gone, or somebody else's. Over NFS only who could write to a file can lock it.
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _hold(file: io.FileIO) -> bool:
    """Lock a file for as long as it is open; False when somebody sweeps it at this moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def make_folder(folder: Path) -> None:
    """Make the folder so that it outlives a power cut: each parent is synced after it has a new child."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(file: io.FileIO, chunks: Chunks, known: KnownCrc | None = None) -> tuple[int, int]:
    """Write and sync a new file; its size and crc32c."""
    size_and_crc = write_into(file, chunks, known)
    os.fsync(file.fileno())
    return size_and_crc


def write_into(
    file: io.FileIO, chunks: Chunks, known: KnownCrc | None = None, sending: bool = False
) -> tuple[int, int]:
    """Write a file that is synced later; its size and crc32c, which is computed where it is not `known`.

    With `sending` the disk begins at once to take it.
    """
    output = Output(file.fileno())
    sent = crc32c = 0
    for gathered in _gathered(chunks):
        output.write(gathered)
        for chunk in gathered if known is None else ():
            # A view of NumPy's is taken without a copy; a memoryview is not.
            crc32c = google_crc32c.extend(crc32c, np.frombuffer(chunk, np.uint8))
        if sending and output.size - sent >= SENT_BYTES:
            send(file, sent, output.size - sent)
            sent = output.size
    if sending and output.size > sent:
        send(file, sent, output.size - sent)
    return output.size, crc32c if known is None else known()


def send(file: io.FileIO, start: int, length: int) -> None:
    """Have the system begin to write these bytes to the disk, which it would else do when it is asked to sync."""
    # It is told that they are not needed any more. As long as they are on their way, it keeps them all the same.
    os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)


def chunks_of(buffers: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The buffers in pieces of a size that is quickly written."""
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file in such pieces."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _gathered(chunks: Chunks) -> Iterator[list[bytes | memoryview]]:
    """Small chunks together: the kernel takes a megabyte at half the cost of ten pieces of it, two a bit cheaper."""
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
