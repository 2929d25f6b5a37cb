"""Files of a disk that appear whole or not at all: written beside their place, synced, then named.

What is synced outlives a power cut. A killed process leaves files whose names end in UNFINISHED, and nothing else.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from storage.names import UNFINISHED

CHUNK_BYTES = 4 << 20
GATHER_BYTES = 1 << 20
GATHER_CHUNKS = 256  # the kernel takes 1024
#: So many bytes at a time are sent to the disk while more are made.
SENT_BYTES = 8 << 20

Chunks = Iterable[bytes | memoryview]


@contextlib.contextmanager
def unfinished(final: Path) -> Iterator[Path]:
    """A temporary name beside `final`, gone at the end whatever happens."""
    temporary = temporary_name(final)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(final: Path) -> Path:
    """A name beside `final` that nobody has, in a folder that is there."""
    make_folder(final.parent)
    return final.with_name(f".{final.name}.{secrets.token_hex(8)}{UNFINISHED}")


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


def write(path: Path, chunks: Chunks) -> tuple[int, int]:
    """Write and sync a new file; its size and crc32c."""
    with path.open("xb", buffering=0) as file:
        size_and_crc = write_into(file, chunks)
        os.fsync(file.fileno())
    return size_and_crc


def write_into(file: io.FileIO, chunks: Chunks, sending: bool = False) -> tuple[int, int]:
    """Write a file that is synced later; its size and crc32c. With `sending` the disk begins at once to take it."""
    size = sent = crc32c = 0
    for gathered in _gathered(chunks):
        _write_all(file.fileno(), gathered)
        for chunk in gathered:
            # A view of NumPy's is taken without a copy; a memoryview is not.
            crc32c = google_crc32c.extend(crc32c, np.frombuffer(chunk, np.uint8))
            size += len(chunk)
        if sending and size - sent >= SENT_BYTES:
            send(file, sent, size - sent)
            sent = size
    if sending and size > sent:
        send(file, sent, size - sent)
    return size, crc32c


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
