"""SIGKILL at every single storage operation of a save and of the pruning after it, on a disk and on a GCS server.

The victims are forked by this file run as a program: `python -m tests.trainer.test_checkpoints_killed ROOT`.
"""

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from storage import local
from storage.names import UNFINISHED
from storage.run_dir import RunDir
from tests.storage.gcs_server import BUCKET, running_gcs_server
from trainer.checkpoints import CheckpointWriter, list_checkpoints, newest_whole, save
from trainer.retention import Retention

TENSOR_BYTES = 6000


def content(step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and state that tell their step; several chunks long."""
    return {"x": np.full(TENSOR_BYTES, step // 100, np.uint8), "step": np.array(step, np.int64)}, {"step": step}


def check_content(run: RunDir, steps: set[int]) -> int:
    """The newest whole checkpoint is one of these steps, it is right, and nothing looks broken."""
    loaded = newest_whole(run)
    assert loaded is not None
    assert loaded.step in steps
    assert loaded.broken == []
    tensors, state = content(loaded.step)
    assert loaded.state == state
    assert all(np.array_equal(loaded.tensors[name], array) for name, array in tensors.items())
    assert [status for status in list_checkpoints(run, verify=True) if status.problem] == []
    return loaded.step


@pytest.fixture(scope="module", params=["disk", "gcs"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunDir]]:
    """Run directories, each left by a writer that was killed one storage operation later than the one before."""
    folder = tmp_path_factory.mktemp("killed")
    if request.param == "disk":
        yield list(victims(str(folder), {}))
        return
    with running_gcs_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server)
        yield list(victims(f"gs://{BUCKET}/{secrets.token_hex(4)}", {"STORAGE_EMULATOR_HOST": server}))


def victims(root: str, environment: dict[str, str]) -> Iterator[RunDir]:
    """Let them be killed; their run directories."""
    command = [sys.executable, "-m", "tests.trainer.test_checkpoints_killed", root]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for run_id in json.loads(done.stdout):
        yield RunDir(root, run_id)


@pytest.mark.filterwarnings(
    "ignore:Please install grpcio-status:ImportWarning", "ignore:unclosed <socket:ResourceWarning"
)
def test_a_killed_writer_leaves_a_whole_checkpoint(killed: list[RunDir]) -> None:
    """Before the manifest the old one, from then on the new one; the next attempt saves, and clears up."""
    assert len(killed) >= 15, "fewer operations than a save and a pruning have"
    found = [check_content(run, {200, 300}) for run in killed]
    assert found == sorted(found), "once it is there it stays"
    assert set(found) == {200, 300}
    for run in killed:
        writer = CheckpointWriter(run, attempt=2, keep=Retention(1))
        writer.submit(300, *content(300))
        writer.close()
        assert check_content(run, {300}) == 300
        if Path(run.url).exists():
            left = [path for path in Path(run.url).rglob(f"*{UNFINISHED}") if path.stat().st_nlink == 1]
            assert left == [], "an interrupted write takes up space (a second name of a published file does not)"
        assert len(list(run.store.list("checkpoints/"))) == 3, "one checkpoint's files and nothing else"


class Countdown:
    """Kills this process at the k-th call."""

    def __init__(self, calls: int):
        self.left = calls

    def __call__(self) -> None:
        """One operation begins, or has ended."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Count before and after every call of owner.name."""
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self()
            result = real(*args, **kwargs)
            self()
            return result

        setattr(owner, name, counted)


def watch_disk(countdown: Countdown) -> None:
    """Count system calls that change the disk, and every piece of a file that is written."""
    for name in ("fsync", "replace", "link", "unlink", "rmdir", "mkdir"):
        countdown.around(os, name)
    countdown.around(Path, "unlink")
    real = local._write

    def write(path: Path, chunks: Any) -> tuple[int, int]:
        def counted() -> Iterator[Any]:
            for chunk in chunks:
                countdown()
                yield chunk

        return real(path, counted())

    local._write = write  # type: ignore[assignment]


def watch_network(countdown: Countdown) -> None:
    """Count requests: killed before one is sent, and after it was answered."""
    countdown.around(requests.adapters.HTTPAdapter, "send")


def fork_one(root: str, run_id: str, watch: Callable[[Countdown], None], calls: int) -> bool:
    """Save step 300 over 100 and 200 in a process that is killed at that operation; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            run = RunDir(root, run_id)
            watch(Countdown(calls))
            writer = CheckpointWriter(run, attempt=1, keep=Retention(1))
            writer.submit(300, *content(300))
            writer.close()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the writer ended with {status}")
    return status != 0


def main(root: str) -> None:
    """Kill a writer at its first operation, another at its second, until one gets through; print the run ids."""
    local.CHUNK_BYTES = TENSOR_BYTES // 3
    watch = watch_network if root.startswith("gs://") else watch_disk
    run_ids = []
    for calls in itertools.count(1):
        run_ids.append(f"killed-at-{calls:03d}")
        run = RunDir(root, run_ids[-1])
        for step in (100, 200):
            save(run, step, *content(step), attempt=0)
        if not fork_one(root, run_ids[-1], watch, calls):
            break
    sys.stdout.write(json.dumps(run_ids))


if __name__ == "__main__":
    main(sys.argv[1])
