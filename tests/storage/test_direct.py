"""Bytes that lie on pages go to the disk past the system's cache; wherever they lie, they are the same."""

import ctypes
import itertools
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from storage import direct
from storage.local import LocalStore
from storage.store import StoreError

PAGE_BYTES = 4096
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def memory() -> Iterator[np.ndarray]:
    """Random bytes that begin at a page."""
    region = mmap.mmap(-1, 12 * MEBIBYTE)
    array = np.frombuffer(region, np.uint8)
    array[:] = np.random.default_rng(0).integers(0, 256, len(array), np.uint8)
    yield array


def cached_bytes(path: Path) -> int:
    """How much of a file the system keeps in its cache."""
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // PAGE_BYTES))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as region:
        libc, place = ctypes.CDLL(None, use_errno=True), np.frombuffer(region, np.uint8)
        failed = libc.mincore(ctypes.c_void_p(place.ctypes.data), ctypes.c_size_t(size), pages)
        del place
        assert not failed, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in pages) * PAGE_BYTES


def can_pass_by(path: Path, memory: np.ndarray) -> bool:
    """Whether this system leaves out its cache when it is asked to."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_DIRECT", 0))
    except OSError:
        return False
    try:
        os.write(descriptor, memory[:MEBIBYTE].data)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return cached_bytes(path) == 0


@pytest.mark.parametrize("shift", [0, 512, 1], ids=lambda shift: f"from byte {shift}")
@pytest.mark.parametrize(
    "length", [0, 1, PAGE_BYTES, MEBIBYTE, 4 * MEBIBYTE, 9 * MEBIBYTE, 9 * MEBIBYTE + 1, 10 * MEBIBYTE - 1], ids=str
)
def test_what_is_read_back_is_what_was_written(tmp_path: Path, memory: np.ndarray, shift: int, length: int) -> None:
    """Of any length, from any place; size and checksum are right."""
    data = memory[shift : shift + length]
    stored = LocalStore(tmp_path).put_buffers("x", [data.data])
    assert (tmp_path / "x").read_bytes() == data.tobytes()
    assert (stored.size, stored.crc32c) == (length, google_crc32c.value(data.tobytes()))


def test_several_buffers_follow_one_another(tmp_path: Path, memory: np.ndarray) -> None:
    """Those that lie well and those that do not, in any order."""
    cuts = [0, 4 * MEBIBYTE, 4 * MEBIBYTE + 10, 6 * MEBIBYTE, 8 * MEBIBYTE, 12 * MEBIBYTE]
    pieces = [memory[begin:end].data for begin, end in itertools.pairwise(cuts)]
    for order in ([0, 1, 2, 3, 4], [3, 4, 0, 1, 2], [1, 0, 3, 4, 2]):
        LocalStore(tmp_path).put_buffers("x", [pieces[number] for number in order])
        assert (tmp_path / "x").read_bytes() == b"".join(pieces[number] for number in order)


def test_pages_of_memory_leave_none_in_the_cache(tmp_path: Path, memory: np.ndarray) -> None:
    """But for the end, which is no whole block; bytes that lie elsewhere go through it."""
    if not can_pass_by(tmp_path / "asked", memory):
        pytest.skip("the file system of the temporary folder takes everything through its cache")
    store = LocalStore(tmp_path)
    store.put_buffers("past", [memory[: 9 * MEBIBYTE + 5].data])
    store.put_buffers("through", [memory[1 : 9 * MEBIBYTE + 6].data])
    assert cached_bytes(tmp_path / "past") <= 16 * PAGE_BYTES
    assert cached_bytes(tmp_path / "through") > 9 * MEBIBYTE


def test_a_system_that_refuses_gets_the_rest_through_its_cache(
    tmp_path: Path, memory: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk with larger blocks than we think refuses the first piece; here it is we who think of smaller ones."""
    monkeypatch.setattr(direct, "BLOCK_BYTES", 1)
    descriptor = os.open(tmp_path / "x", os.O_CREAT | os.O_WRONLY)
    try:
        output = direct.Output(descriptor)
        for begin in range(3, 9 * MEBIBYTE, 3 * MEBIBYTE):
            output.write([memory[begin : begin + 3 * MEBIBYTE].data])
    finally:
        os.close(descriptor)
    assert (tmp_path / "x").read_bytes() == memory[3 : 3 + 9 * MEBIBYTE].tobytes()
    assert output.size == 9 * MEBIBYTE
    if output.num_direct_bytes:
        pytest.skip("the file system of the temporary folder refuses nothing")


def test_a_file_that_may_not_be_so_large_leaves_nothing(tmp_path: Path, memory: np.ndarray) -> None:
    """The limit lies in the middle of what goes past the cache."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * MEBIBYTE + 100, hard))
    try:
        with pytest.raises(StoreError, match="the file is larger than"):
            LocalStore(tmp_path).put_buffers("x", [memory.data])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
