"""The real command line in a process of its own, as a user types it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_temporary_folder() -> Iterator[None]:
    """Where two processes share the tests, what the jobs of one leave is not the other's to sweep."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if not worker:
        yield
        return
    # Short: below it lie Ray's sockets, whose paths the kernel limits to 107 bytes.
    folder = tempfile.mkdtemp(prefix=worker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Command:
    """`python launcher/run.py`, with runs and prepared data in a folder of the test's own."""

    repository: Path
    runs: Path

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin; the caller waits."""
        line = [sys.executable, "launcher/run.py", f"storage.root={self.runs}", *words]
        return subprocess.Popen(
            line,
            cwd=self.repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, expect: int = 0, timeout_s: float = 240) -> str:
        """Run to the end; what it said. Its exit code has to be the expected one."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == expect, said[-4000:]
        return said

    def json(self, run_id: str, name: str) -> Any:
        """A JSON file of a run directory."""
        return json.loads((self.runs / run_id / name).read_text())

    def events(self, run_id: str, kind: str | None = None) -> list[dict[str, Any]]:
        """The events of a run, of one kind or all."""
        path = self.runs / run_id / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if kind in (None, event["kind"])]

    def wait_for(
        self, run_id: str, kind: str, process: subprocess.Popen[str], timeout_s: float = 120
    ) -> dict[str, Any]:
        """The first event of a kind."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and process.poll() is None:
            if found := self.events(run_id, kind):
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no event {kind} in {run_id}: {self.events(run_id)}")


@pytest.fixture(scope="module")
def convoy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command, with one folder of runs a module: data is prepared once."""
    os.environ.pop("RAY_ADDRESS", None)
    return Command(repository, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def cifar10(repository: Path) -> Path:
    """A folder of real photographs; without it the test is skipped by name."""
    folder = repository.parent / "shared" / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip("../shared/data/cifar10 is not there")
    return folder
