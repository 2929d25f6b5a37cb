"""The local store against full disks and interrupted writers."""

import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import whole_files
from storage.local import LocalStore
from storage.names import UNFINISHED
from storage.store import Store, StoreError, open_store

DISK_BYTES = 1 << 20


@pytest.fixture(params=["full disk", "file size limit"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which no file may be larger than a mebibyte, for one of two reasons."""
    if request.param == "full disk":
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", tmp_path], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("only root can mount a small disk")
        try:
            yield tmp_path
        finally:
            subprocess.run(["umount", "-l", tmp_path], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, hard))
        try:
            yield tmp_path
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_is_there(small_disk: Path) -> None:
    """The old object stays whole, nothing half written stays, and the error says what to do."""
    store = open_store(str(small_disk / "store"))
    store.put("x", b"old")
    large = bytes(2 * DISK_BYTES)
    for write in (lambda: store.put("x", large), lambda: store.put_if_absent("y", large)):
        with pytest.raises(StoreError, match=r"cannot put - .* - (the disk is full: free|the file is larger than)"):
            write()
    assert store.get("x") == b"old"
    assert os.listdir(small_disk / "store") == ["x"]
    store.put("x", b"new")
    assert store.get("x") == b"new"


def test_a_copy_onto_a_full_disk_leaves_no_file(small_disk: Path) -> None:
    """get_file publishes the whole file or none."""
    with Path("/dev/zero").open("rb") as zeros, pytest.raises(StoreError, match=r"the disk is full|the file is larger"):
        LocalStore(Path("/proc/self/fd")).get_file(str(zeros.fileno()), small_disk / "x")
    assert os.listdir(small_disk) == []


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    """Unfinished files are no objects; deleting their folder removes them."""
    store = open_store(str(tmp_path))
    store.put("folder/x", b"1")
    (tmp_path / "folder" / f".y.0123{UNFINISHED}").write_bytes(b"half")
    assert [stored.name for stored in store.list()] == ["folder/x"]
    store.delete_folder("folder")
    assert os.listdir(tmp_path) == []


_HALF_WRITTEN = """
import sys, time
from pathlib import Path
from storage.local import LocalStore

def chunks():
    yield b"half"
    print(flush=True)
    time.sleep(600)

store = LocalStore(Path(sys.argv[1]))
with store.together() as group:
    group.put("x", b"1")
    store.put_chunks("y", chunks())
"""


def test_what_nobody_writes_any_more_is_swept(tmp_path: Path, repository: Path) -> None:
    """A process writes an object in a group and one alone; while it lives neither is touched, and then both are."""
    others = {f".z.0123{UNFINISHED}", ".hidden", f"z.{'0' * 16}{UNFINISHED}", "kept"}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    store = LocalStore(tmp_path)
    command = [sys.executable, "-c", _HALF_WRITTEN, str(tmp_path)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline()
            store.sweep()
            assert len(os.listdir(tmp_path)) == len(others) + 2
        finally:
            writer.kill()
    store.sweep()
    assert set(os.listdir(tmp_path)) == others
    LocalStore(tmp_path / "none").sweep()


def test_a_new_file_that_is_swept_away_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock another process may take it for one that was left."""
    real, swept = fcntl.flock, []

    def flock(file: Any, operation: int) -> None:
        if not swept:
            swept.append(os.listdir(tmp_path))
            whole_files.sweep(tmp_path)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    LocalStore(tmp_path).put("x", b"1")
    assert len(swept) == 1 and len(swept[0]) == 1 and os.listdir(tmp_path) == ["x"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survives a power cut: file synced, then named, then the folder synced."""
    calls: list[str] = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    store = LocalStore(tmp_path)
    store.put("x", b"1")
    store.put_if_absent("y", b"1")
    assert calls == ["fsync", "replace", "fsync", "fsync", "link", "fsync"]


def test_a_group_waits_for_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files synced, then all named in their order, then what goes, then the folder, a single time."""
    store = LocalStore(tmp_path)
    store.put("gone", b"1")
    calls: list[str] = []
    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
        real = getattr(owner, name)

        def noted(*args: Any, name: str = name, real: Any = real, **kwargs: Any) -> Any:
            last = args[-1] if not isinstance(args[-1], int) else os.readlink(f"/proc/self/fd/{args[-1]}")
            calls.append(f"{name} {Path(last).name.partition('.')[0] or Path(last).name.split('.')[1]}")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)
    with store.together() as group:
        group.put("x", b"1")
        group.delete("gone")
        group.put_chunks("y", [b"2"])
        group.put_buffers("z", [b"3"])
        assert not calls and os.listdir(tmp_path) and not store.exists("x")
    named = [f"replace {name}" for name in "xyz"]
    assert calls[:8] == ["fsync x", "fsync y", "fsync z", *named, "unlink gone", f"fsync {tmp_path.name}"]
    assert not [call for call in calls[8:] if not call.startswith("unlink")]
    assert sorted(os.listdir(tmp_path)) == ["x", "y", "z"]


def test_a_new_folder_is_synced_into_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was made is in its parent for good before anything is put into it."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    LocalStore(tmp_path).put("a/b/x", b"1")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    assert synced[-1] == str(tmp_path / "a" / "b")


def test_files_get_the_usual_mode(tmp_path: Path) -> None:
    """Others may read a run as the umask says; temporary files are often too private."""
    before = os.umask(0o022)
    try:
        LocalStore(tmp_path).put("x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A storage.root below a file is refused with the reason."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/.* - a part of the path is a file"):
        open_store(str(tmp_path / "file")).check_writable()


def test_a_file_system_that_makes_no_folders_is_told_as_such() -> None:
    """Of /proc Linux says that there is no such file, whoever asks for what."""
    with pytest.raises(StoreError, match="/proc/nope/a: cannot put - no such file or folder, and none can be made"):
        LocalStore(Path("/proc/nope")).put("a", b"1")


@pytest.mark.parametrize("url", ["{}", "file://{}", "file://localhost{}"])
def test_plain_paths_and_file_urls_are_the_same(tmp_path: Path, url: str) -> None:
    """A store knows where its objects lie."""
    store: Store = open_store(url.format(tmp_path))
    assert store.url == str(tmp_path)
    assert store.local_path("a/b") == tmp_path / "a" / "b"


@pytest.mark.parametrize("url", ["file://other-host/path", "s3://bucket/path"])
def test_urls_of_no_store_are_refused(url: str) -> None:
    """The error names what is known."""
    with pytest.raises(StoreError, match=url):
        open_store(url)
