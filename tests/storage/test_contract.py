"""What every store promises, on a directory, on a real GCS server and on that server with faults."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest

from storage.store import NotStored, Store, StoreError

SOME_BYTES = bytes(range(256)) * 40
MORE_THAN_ONE_REQUEST = 9 << 20


def names(store: Store, prefix: str = "") -> list[str]:
    """The names in the store."""
    return [stored.name for stored in store.list(prefix)]


@pytest.mark.parametrize("data", [b"", SOME_BYTES])
def test_what_is_put_is_got(store: Store, data: bytes) -> None:
    """Bytes come back, an empty object too, and a second put replaces the first."""
    store.put("folder/name.bin", b"before")
    store.put("folder/name.bin", data)
    assert store.get("folder/name.bin") == data
    assert store.exists("folder/name.bin")
    assert not store.exists("folder")
    assert not store.exists("name.bin")


def test_a_large_object_in_pieces(store: Store) -> None:
    """More than one request's worth of buffers arrives as one object with the checksum of the whole."""
    pieces = [os.urandom(MORE_THAN_ONE_REQUEST), b"", memoryview(b"abc")]
    whole = b"".join(pieces)
    stored = store.put_buffers("large", pieces)
    assert (stored.name, stored.size, stored.crc32c) == ("large", len(whole), google_crc32c.value(whole))
    assert store.get("large") == whole
    assert store.get_range("large", len(whole) - 5, 10) == whole[-5:]


def test_files_go_and_come(store: Store, tmp_path: Path) -> None:
    """put_file and get_file copy whole files; the answer carries size and crc32c."""
    source, target = tmp_path / "source", tmp_path / "new folder" / "target"
    source.write_bytes(SOME_BYTES)
    stored = store.put_file("a/file", source)
    assert (stored.name, stored.size, stored.crc32c) == ("a/file", len(SOME_BYTES), google_crc32c.value(SOME_BYTES))
    store.get_file("a/file", target)
    assert target.read_bytes() == SOME_BYTES
    assert os.listdir(target.parent) == ["target"]


def test_ranges(store: Store) -> None:
    """A range is exact, shorter only at the end, empty behind it."""
    store.put("x", SOME_BYTES)
    assert store.get_range("x", 100, 50) == SOME_BYTES[100:150]
    assert store.get_range("x", len(SOME_BYTES) - 3, 50) == SOME_BYTES[-3:]
    assert store.get_range("x", len(SOME_BYTES) + 3, 50) == b""
    assert store.get_range("x", 5, 0) == b""


def test_only_the_first_put_if_absent_writes(store: Store) -> None:
    """The loser leaves what is there alone."""
    assert store.put_if_absent("marker", b"first")
    assert not store.put_if_absent("marker", b"second")
    assert store.get("marker") == b"first"
    store.put("other", b"first")
    assert not store.put_if_absent("other", b"second")
    assert store.get("other") == b"first"


def test_one_of_many_wins(store: Store) -> None:
    """Of eight callers at once exactly one is told that it wrote, and its bytes are there."""
    for round_ in range(5):
        name = f"race/{round_}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i, name=name: store.put_if_absent(name, b"%d" % i), range(8)))
        assert won.count(True) == 1
        assert store.get(name) == b"%d" % won.index(True)


def test_a_list_is_sorted_and_filtered(store: Store) -> None:
    """Prefixes are beginnings of names, not only folders."""
    for name in ["b/2", "a", "b/10", "bc", "b/d/e"]:
        store.put(name, b"x" * len(name))
    assert names(store) == ["a", "b/10", "b/2", "b/d/e", "bc"]
    assert names(store, "b") == ["b/10", "b/2", "b/d/e", "bc"]
    assert names(store, "b/") == ["b/10", "b/2", "b/d/e"]
    assert names(store, "b/1") == ["b/10"]
    assert names(store, "no/such") == []
    assert [stored.size for stored in store.list("b/")] == [4, 3, 5]


def test_chunks_that_are_made_while_they_are_written(store: Store) -> None:
    """They arrive as one object with its checksum; an error in making them leaves nothing, or what was there."""
    whole = os.urandom(MORE_THAN_ONE_REQUEST)
    stored = store.put_chunks("made", (whole[at : at + 100_000] for at in range(0, len(whole), 100_000)))
    assert (stored.name, stored.size, stored.crc32c) == ("made", len(whole), google_crc32c.value(whole))
    assert store.get("made") == whole
    assert store.put_chunks("empty", []).size == 0 and store.get("empty") == b""
    known = store.put_chunks("made", iter([whole, b"end"]), lambda: google_crc32c.value(whole + b"end"))
    assert (known.size, known.crc32c) == (len(whole) + 3, google_crc32c.value(whole + b"end"))
    assert store.get("made") == whole + b"end"

    def failing() -> Iterator[bytes]:
        yield whole
        raise ZeroDivisionError

    for name in ("made", "new"):
        with pytest.raises(ZeroDivisionError):
            store.put_chunks(name, failing())
    assert names(store) == ["empty", "made"] and store.get("made") == whole + b"end"


def test_what_is_put_together_is_there_when_the_block_ends(store: Store) -> None:
    """Each object with its checksum; what is deleted in the block is gone, though nobody had put it."""
    whole = os.urandom(MORE_THAN_ONE_REQUEST)
    store.put("old", b"1")
    with store.together() as group:
        made = group.put_chunks("made", (whole[at : at + 100_000] for at in range(0, len(whole), 100_000)))
        assert (made.name, made.size, made.crc32c) == ("made", len(whole), google_crc32c.value(whole))
        assert group.put_buffers("folder/several", [b"ab", b"", memoryview(b"c")]).crc32c == google_crc32c.value(b"abc")
        group.put("old", b"2")
        group.put("last", b"")
        group.delete("never")
        assert store.get("old") in (b"1", b"2")
        with pytest.raises(StoreError):
            group.put("../outside", b"")
    assert names(store) == ["folder/several", "last", "made", "old"]
    assert store.get("made") == whole and store.get("folder/several") == b"abc" and store.get("old") == b"2"
    with store.together() as group:
        group.delete("old")
        group.put("new", b"3")
    assert names(store) == ["folder/several", "last", "made", "new"]


def test_an_error_in_a_group_leaves_no_half_of_an_object(store: Store) -> None:
    """And on a disk nothing at all: names come when everything is there."""

    def failing() -> Iterator[bytes]:
        yield os.urandom(MORE_THAN_ONE_REQUEST)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.together() as group:
        group.put("first", b"whole")
        group.put_chunks("second", failing())
    is_far = store.local_path("x") is None and store.url.startswith("gs://")
    assert names(store) == (["first"] if is_far else [])


def test_folders_are_listed_without_what_is_in_them(store: Store) -> None:
    """Folders directly in the store alone; objects beside them are none."""
    assert list(store.list_folders()) == []
    for name in ["b/2", "a", "b/10", "bc/x/y", "_data/x"]:
        store.put(name, b"x")
    assert list(store.list_folders()) == ["_data", "b", "bc"]


def test_deleting(store: Store) -> None:
    """A deleted object is gone, deleting again is no error, and its neighbours stay."""
    store.put("a/b", b"1")
    store.put("a/c", b"2")
    store.delete("a/b")
    store.delete("a/b")
    assert names(store) == ["a/c"]


def test_deleting_a_folder(store: Store) -> None:
    """Everything below the folder goes, and nothing that only begins like it."""
    for name in ["a/b", "a/c/d", "ab", "b"]:
        store.put(name, b"1")
    store.delete_folder("a")
    store.delete_folder("a")
    assert names(store) == ["ab", "b"]


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    """Reading what is absent raises NotStored with the object's url, and leaves no file."""
    for read in (
        store.get,
        lambda name: store.get_range(name, 0, 1),
        lambda name: store.get_file(name, tmp_path / "t"),
    ):
        with pytest.raises(NotStored, match=f"{store.url}/no/such"):
            read("no/such")
    assert not (tmp_path / "t").exists()
    with pytest.raises(NotStored):
        store.put_file("x", tmp_path / "no such file")
    assert not store.exists("x")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/", "a\0b", "a\\b", "x.unfinished"])
def test_names_stay_inside(store: Store, name: str) -> None:
    """Absolute names, `..` and the like are refused by every operation that takes a name."""
    for use in (store.get, store.exists, store.delete, store.delete_folder, store.local_path):
        with pytest.raises(StoreError, match="name="):
            use(name)
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StoreError, match="name="):
            write(name, b"")


@pytest.mark.parametrize("prefix", ["/", "../", "a/../b"])
def test_prefixes_stay_inside(store: Store, prefix: str) -> None:
    """The same for lists."""
    with pytest.raises(StoreError, match="prefix="):
        store.list(prefix)


def test_a_writable_store_says_nothing_and_keeps_nothing(store: Store) -> None:
    """check_writable leaves no trace."""
    store.check_writable()
    assert names(store) == []
