"""Folders on the way to a far store: each with its process, and gone with it however that ends."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from storage import run_dir, staging
from storage.run_dir import RunDir
from storage.staging import Staging

KEEPER = """
import sys, tempfile
from storage import staging
before = staging.temporary_folder()
staging.keep_temporary_files()
staging.keep_temporary_files()
with tempfile.NamedTemporaryFile(delete=False) as file:
    print(file.name, staging.temporary_folder() == before, flush=True)
sys.stdin.readline()
"""
OWNER = """
import os, sys
from storage.staging import Staging, close_all
staging = Staging()
(staging.folder / "large").write_bytes(b"x")
print(staging.folder, flush=True)
sys.stdin.readline()
if "clean" in sys.argv:
    close_all()
os._exit(0)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that nobody else uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def owner(repository: Path, *words: str) -> tuple["subprocess.Popen[str]", Path]:
    """Another process that has a folder."""
    line = [sys.executable, "-c", OWNER, *words]
    process = subprocess.Popen(line, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_there_as_long_as_its_process(repository: Path, temporary: Path) -> None:
    process, folder = owner(repository)
    with process:
        own = Staging()
        staging.sweep()
        assert (folder / "large").exists() and own.folder.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
        staging.sweep()
    assert os.listdir(temporary) == [own.folder.name]
    own.close()
    own.close()
    assert os.listdir(temporary) == []


def test_the_next_folder_sweeps_and_who_ends_at_once_cleans_up_before(repository: Path, temporary: Path) -> None:
    left, clean = owner(repository), owner(repository, "clean")
    for process, _ in (left, clean):
        process.communicate("\n")
    assert os.listdir(temporary) == [left[1].name]
    own = Staging()
    assert os.listdir(temporary) == [own.folder.name]
    staging.close_all()
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_temporary_files_are_gone_with_their_process(repository: Path, temporary: Path, end: int | None) -> None:
    line = [sys.executable, "-c", KEEPER]
    with subprocess.Popen(line, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name, _, shares = process.stdout.readline().strip().partition(" ")
        assert shares == "True", "what all processes of the host share stays where it is"
        assert Path(name).exists() and Path(name).parent.parent == temporary
        if end is not None:
            process.send_signal(end)
        process.communicate("\n")
    if end is not None:
        assert len(os.listdir(temporary)) == 1
        staging.sweep()
    assert os.listdir(temporary) == []


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = tempfile.mkdtemp, []

    def unlucky(prefix: str) -> str:
        made.append(real(prefix=prefix))
        if len(made) == 1:
            staging.sweep()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", unlucky)
    own = Staging()
    assert len(made) == 2 and os.listdir(temporary) == [own.folder.name]


def test_a_folder_that_is_swept_while_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, locked = fcntl.flock, []

    def unlucky(file: int, operation: int) -> None:
        locked.append(os.readlink(f"/proc/self/fd/{file}"))
        if len(locked) == 1:
            os.rmdir(locked[0])
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", unlucky)
    own = Staging()
    assert own.folder.is_dir() and len(locked) == 2


def test_a_run_directory_leaves_nothing_here(gcs_url: str, gcs_server: str, temporary: Path, monkeypatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    run = RunDir(gcs_url, "x")
    for _ in range(2):  # it may be used again after it was closed
        run.local(run_dir.METRICS).write_text("{}")
        run.publish(run_dir.METRICS)
        assert len(os.listdir(temporary)) == 1
        run.close()
        assert os.listdir(temporary) == []
    run.local(run_dir.METRICS)
    del run
    assert os.listdir(temporary) == []
