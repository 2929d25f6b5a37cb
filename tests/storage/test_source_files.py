"""Whether the files that a set was made of are still what they were."""

import os
from pathlib import Path

import pytest

from storage.source_files import SOURCE_FILES, FileState, changes, content_mark, image_files, to_lines
from storage.store import open_store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four images, one of them a JPEG of some size; and what is no image."""
    root = tmp_path / "source"
    (root / "cats" / "old").mkdir(parents=True)
    for name in ("cats/a.png", "cats/b.PNG", "cats/old/c.bmp"):
        (root / name).write_bytes(os.urandom(100))
    (root / "cats" / "d.jpg").write_bytes(b"\xff\xd8" + os.urandom(50_000))
    for name in ("notes.txt", ".hidden.png", "cats/.e.png"):
        (root / name).write_bytes(b"no image of ours")
    return root


@pytest.fixture
def prepared(source: Path, tmp_path: Path) -> str:
    """A set that was made of them."""
    files = image_files(source)
    assert sorted(files) == ["cats/a.png", "cats/b.PNG", "cats/d.jpg", "cats/old/c.bmp"]
    marked = {name: FileState(*state[:2], content_mark((source / name).read_bytes())) for name, state in files.items()}
    url = str(tmp_path / "set")
    open_store(url).put(SOURCE_FILES, to_lines(marked))
    return url


def test_nothing_has_changed(source: Path, prepared: str) -> None:
    assert changes(prepared, source) is None
    (source / "more.txt").write_text("no image either")
    assert changes(prepared, source) is None


def test_files_that_were_only_touched_are_the_same(source: Path, prepared: str) -> None:
    for path in source.rglob("*.*"):
        os.utime(path, (1, 1))
    assert changes(prepared, source) is None


@pytest.mark.parametrize(
    ("name", "place"), [("cats/a.png", 50), ("cats/d.jpg", 20), ("cats/d.jpg", 49_000), ("cats/d.jpg", 26_000)]
)
def test_a_byte_that_differs_in_a_file_of_the_same_size(source: Path, prepared: str, name: str, place: int) -> None:
    path = source / name
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, (1, 1))
    assert changes(prepared, source) == f"1 file changed ({name})"


def test_what_is_different_is_counted_and_named(source: Path, prepared: str) -> None:
    for number in range(12):
        (source / "cats" / f"new{number:02d}.jpg").write_bytes(b"")
    (source / "cats" / "old" / "c.bmp").unlink()
    (source / "cats" / "a.png").write_bytes(b"shorter")
    said = changes(prepared, source)
    added = "12 files added (cats/new00.jpg, cats/new01.jpg, cats/new02.jpg, ...)"
    assert said == f"{added}, 1 removed (cats/old/c.bmp), 1 changed (cats/a.png)"


def test_a_source_that_is_gone_is_no_change(source: Path, prepared: str) -> None:
    assert changes(prepared, source / "elsewhere") is None
    for path in source.rglob("*.*"):
        path.unlink()
    assert changes(prepared, source) is None  # as where a disk is not mounted


def test_a_set_that_does_not_know_its_source_is_taken_as_it_is(source: Path, prepared: str) -> None:
    Path(prepared, SOURCE_FILES).write_text("{")
    assert changes(prepared, source) is None
    Path(prepared, SOURCE_FILES).unlink()
    assert changes(prepared, source) is None


def test_a_source_that_is_a_file(source: Path, tmp_path: Path) -> None:
    table = source / "table.csv"
    table.write_text("path,label\ncats/a.png,cat\n")
    found = {name: os.stat(source / name) for name in ("table.csv", "cats/a.png")}
    states = {name: FileState(state.st_size, state.st_mtime_ns) for name, state in found.items()}
    url = str(tmp_path / "set")
    open_store(url).put(SOURCE_FILES, to_lines(states))
    assert changes(url, table) is None
    (source / "cats" / "unlisted.png").write_bytes(b"x")
    assert changes(url, table) is None
    table.write_text("path,label\n")
    assert changes(url, table) == "1 file changed (table.csv)"
