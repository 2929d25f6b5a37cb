"""Folders of this machine for what is needed here for a while. None outlives its process for long.

A process holds a lock (flock) on each of its folders, and the lock ends with it, however it ends: what a killed one
has left is removed by whoever next makes such a folder or calls `sweep`. Who ends by os._exit calls `close_all` first.

A process may keep all its temporary files in such a folder (`keep_temporary_files`): what libraries write with Python's
tempfile, as AutoGraph does with the code it generates, is then gone with the process too.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

PREFIX = "convoy-staging-"


class Staging:
    """A folder of this process's own."""

    def __init__(self) -> None:
        sweep()
        self.folder, lock = _held()
        self._close = weakref.finalize(self, _remove, self.folder, lock)
        _open.add(self)

    def close(self) -> None:
        """Remove the folder with everything in it."""
        self._close()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        self.close()


_open: "weakref.WeakSet[Staging]" = weakref.WeakSet()
#: Of a process that keeps its temporary files: where they are, and the folder that all processes of the host share.
_own: Staging | None = None
_shared: Path | None = None


def temporary_folder() -> Path:
    """The host's folder for temporary files, the same in every process of a user."""
    return _shared or Path(tempfile.gettempdir())


def keep_temporary_files() -> None:
    """From now on this process's temporary files are in a folder of its own. Processes it starts do not inherit it."""
    global _own, _shared
    if _own is None:
        _shared = temporary_folder()
        _own = Staging()
        tempfile.tempdir = str(_own.folder)


def close_all() -> None:
    """Remove all folders of this process."""
    for staging in list(_open):
        staging.close()


def sweep() -> None:
    """Remove this user's folders whose processes are gone."""
    for folder in temporary_folder().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and (lock := _lock(folder)) is not None:
                _remove(folder, lock)


@contextlib.contextmanager
def swept() -> Iterator[None]:
    """Afterwards nothing is left of the processes that ended inside the block."""
    try:
        yield
    finally:
        sweep()


def _held() -> tuple[Path, int]:
    """A new folder, and the lock on it. Another process may sweep it away before it is locked: then the next one."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(folder)
            if lock is not None and folder.exists():
                return folder, lock


def _lock(folder: Path) -> int | None:
    """The lock on a folder; None where another process has it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
