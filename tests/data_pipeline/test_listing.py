"""The files below a source, looked at by two processes, against `os.stat`; and what happens when one of them fails."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from conf.schema import DataSpec, JobSpec, SplitSpec
from data_pipeline import listing
from data_pipeline.listing import Listing
from data_pipeline.parts import PartFailed
from data_pipeline.prepare import explain, prepare
from storage.source_files import FileState, FileStates

COUNT = 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many files of different sizes and times, a link to one, a link to nowhere, and what is no image."""
    root = tmp_path_factory.mktemp("many")
    for label in ("a", "b/c"):
        (root / label).mkdir(parents=True)
        for number in range(COUNT // 2):
            path = root / label / f"{number}.jpg"
            path.write_bytes(bytes(number % 100))
            os.utime(path, ns=(0, 10**18 + number))
    (root / "a" / "link.png").symlink_to(root / "a" / "7.jpg")
    (root / "a" / "nowhere.png").symlink_to(root / "nothing")
    for name in ("notes.txt", "a/.hidden.jpg"):
        (root / name).write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def seen(folder: Path) -> FileStates:
    """What the system says of each of them."""
    found = {"a/nowhere.png": FileState(0, 0)}
    for path in [*folder.rglob("[0-9]*.jpg"), folder / "a" / "link.png"]:
        found[str(path.relative_to(folder))] = FileState(path.stat().st_size, path.stat().st_mtime_ns)
    return found


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    """Whatever happens, the helper has ended and was waited for. Children of other tests' fixtures are none of ours."""
    before = children()
    yield
    assert children() <= before


def children() -> set[int]:
    """The processes of this one, with those that ended and nobody waited for."""
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("processes", [1, 2])
def test_every_file_is_seen_as_it_is(folder: Path, seen: FileStates, processes: int) -> None:
    files = Listing(folder)
    files.look(processes, explain)
    assert len(seen) == COUNT + 2 and files.states() == seen
    assert files.sizes() == {f"{folder}/{name}": state.num_bytes for name, state in seen.items()}


def test_a_helper_looks_meanwhile(folder: Path, seen: FileStates, monkeypatch: pytest.MonkeyPatch) -> None:
    files, own, real = Listing(folder), [], listing._state
    monkeypatch.setattr(listing, "_state", lambda path: own.append(path) or real(path))  # a helper's are not told here

    def meanwhile() -> None:
        deadline = time.monotonic() + 60
        while not files._is_seen.all():
            assert time.monotonic() < deadline, "nobody else looks"
            time.sleep(0.01)

    files.look(2, explain, meanwhile)
    assert not own and files.states() == seen


def test_both_look(folder: Path, seen: FileStates, monkeypatch: pytest.MonkeyPatch) -> None:
    files, own, real, parent = Listing(folder), [], listing._state, os.getpid()

    def state(path: str) -> tuple[int, int]:
        if os.getpid() == parent:
            own.append(path)
        else:
            time.sleep(0.001)  # a slow helper is met early
        return real(path)

    monkeypatch.setattr(listing, "_state", state)
    files.look(2, explain)
    assert len(own) > COUNT / 2 and files.states() == seen


def test_a_helper_that_is_killed_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, real, (begun, begins) = os.getpid(), listing._state, os.pipe()

    def state(path: str) -> tuple[int, int]:
        if os.getpid() != parent:
            os.write(begins, b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    monkeypatch.setattr(listing, "_state", state)
    with pytest.raises(PartFailed, match="killed by signal 9"):
        Listing(folder).look(2, explain, lambda: os.read(begun, 1))
    os.close(begun)
    os.close(begins)


def test_what_is_raised_meanwhile_ends_the_helper(folder: Path) -> None:
    def meanwhile() -> None:
        raise LookupError("no class")

    with pytest.raises(LookupError, match="no class"):
        Listing(folder).look(2, explain, meanwhile)


def test_nothing_is_below_what_is_no_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "file.npz"):
        path.exists() or path.touch()
        files = Listing(path)
        files.look(2, explain)
        assert files.states() == files.sizes() == {}


def test_two_processes_prepare_what_one_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        path = tmp_path / "in" / f"class {number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 9), (number, 0, 0)).save(path)
    monkeypatch.setattr(listing, "_WORTH_A_HELPER", 1)
    monkeypatch.setattr(listing, "_FILES_A_PIECE", 3)
    prepared = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}"
        data = DataSpec(name="folder", path=str(tmp_path / "in"), out=str(out), split=SplitSpec(0.5, 0.25, 0.25))
        assert prepare(JobSpec(data=data), processes=processes) is not None
        assert gc.isenabled() and not gc.get_freeze_count()
        prepared.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert prepared[0] == prepared[1] and len(prepared[0]) > 5
