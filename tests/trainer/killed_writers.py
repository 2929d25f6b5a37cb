"""Writers of checkpoints that are killed, each one storage operation later than the one before.

`python -m tests.trainer.killed_writers ROOT STATES`; STATES is an .npz of "STEP NAME" with what is to be saved.
"""

import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests

from storage import local, whole_files
from storage.run_dir import RunDir
from trainer.checkpoint_writer import CheckpointWriter
from trainer.checkpoints import save
from trainer.retention import Retention

#: An update each. Of the first two there are whole checkpoints, the third is being saved, the last is still to come.
STEPS = (100, 200, 300, 400)
CHUNK_BYTES = 2000
Snapshot = dict[str, np.ndarray]
States = dict[int, tuple[Snapshot, dict[str, Any]]]


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
    real = local.write

    def write(file: io.FileIO, chunks: Any, *known: Any) -> tuple[int, int]:
        def counted() -> Iterator[Any]:
            for chunk in chunks:
                countdown()
                yield chunk

        return real(file, counted(), *known)

    local.write = write  # type: ignore[assignment]


def watch_network(countdown: Countdown) -> None:
    """Count requests: killed before one is sent, and after it was answered."""
    countdown.around(requests.adapters.HTTPAdapter, "send")


def fork_one(root: str, run_id: str, states: States, watch: Callable[[Countdown], None], calls: int) -> bool:
    """Save step 300 over 100 and 200 in a process that is killed at that operation; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            run = RunDir(root, run_id)
            watch(Countdown(calls))
            writer = CheckpointWriter(run, attempt=1, keep=Retention(1))
            writer.submit(300, *states[300])
            writer.close()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the writer ended with {status}")
    return status != 0


def main(root: str, path: str) -> None:
    """Kill a writer at its first operation, another at its second, until one gets through; print the run ids."""
    whole_files.CHUNK_BYTES = CHUNK_BYTES
    watch = watch_network if root.startswith("gs://") else watch_disk
    run_ids: list[str] = []
    with np.load(path) as arrays:
        named = {tuple(key.split(" ", 1)): arrays[key] for key in arrays.files}
    states = {step: ({name: a for (s, name), a in named.items() if s == str(step)}, {"step": step}) for step in STEPS}
    for calls in itertools.count(1):
        run_ids.append(f"killed-at-{calls:03d}")
        run = RunDir(root, run_ids[-1])
        for step in (100, 200):
            save(run, step, *states[step], attempt=0)
        if not fork_one(root, run_ids[-1], states, watch, calls):
            break
    sys.stdout.write(json.dumps(run_ids))


if __name__ == "__main__":
    main(*sys.argv[1:])
