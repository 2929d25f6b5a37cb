"""What the tests with real processes share."""

import os
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True, scope="session")
def fakes_are_found() -> None:
    """Children look for `fake_worker` beside this file; so does a Ray that is started here."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))


def living(*words: str) -> list[psutil.Process]:
    """Processes with one of these words in their command line or environment, but not this one."""
    found = []
    for process in psutil.process_iter():
        try:
            said = " ".join([*process.cmdline(), *process.environ().values()])
            if process.pid != os.getpid() and process.status() != "zombie" and any(word in said for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
