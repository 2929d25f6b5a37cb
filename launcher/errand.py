"""An errand: what one child process does at once and without Ray, such as reading a prepared set or checkpoints.

The child runs `python -m MODULE --job FILE`, tells its progress on the pipe that it inherits, and ends with one event
whose details are what it found, or with one error.
"""

import json
import os
import subprocess
import sys
from typing import Any

from conf.exit_codes import BAD_SPEC, FAILED
from conf.files import dump_job
from conf.schema import JobSpec
from launcher.child import PROGRESS_FD, child_environ, die_with_parent
from launcher.console import Console
from storage.staging import Staging

_TAIL = 20


class Failed(Exception):
    """The child did not do it, and why. `exit_code` is what the command ends with."""

    def __init__(self, why: str, exit_code: int):
        super().__init__(why)
        self.exit_code = exit_code


def run_errand(module: str, job: JobSpec, console: Console, phase: str) -> dict[str, Any]:
    """What the child found; Failed says why it found nothing. `phase` is what its progress is called."""
    with Staging() as folder:
        path, log = folder / "job.yaml", folder / "log"
        path.write_text(dump_job(job))
        read_end, write_end = os.pipe()
        with log.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, "--job", str(path)],
                env=child_environ({"CUDA_VISIBLE_DEVICES": "-1"}) | {PROGRESS_FD: str(write_end)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=(write_end,),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        os.close(write_end)
        try:
            found, error = _listen(read_end, console, phase)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            console.rest()
        if code == 0 and found is not None:
            return found
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
        raise Failed(error or tail, BAD_SPEC if code == BAD_SPEC else FAILED)


def _listen(pipe: int, console: Console, phase: str) -> tuple[dict[str, Any] | None, str | None]:
    """Read what the child says until it ends: what it found, and its error."""
    found, error = None, None
    with os.fdopen(pipe, "r") as lines:
        for line in lines:
            told = json.loads(line)
            if told["kind"] == "progress":
                console.progress(told | {"phase": phase, "examples_per_s": None})
            elif told["kind"] == "event":
                found = told["details"]
            elif told["kind"] == "error":
                error = str(told["message"])
    return found, error
