"""job=inspect: a table of a prepared set and its images as contact sheets. No Ray: one child process."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conf.data_url import PREPARED, data_url
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC
from conf.files import dump_job
from conf.schema import DataSpec, JobSpec
from launcher.child import PROGRESS_FD, child_environ, die_with_parent
from launcher.compose import Asked
from launcher.console import Console, refuse, show
from launcher.saved import existing_run
from storage.data_dir import is_prepared
from storage.store import StoreError

MODULE = "data_pipeline.inspect"
_TAIL = 20


class Failed(Exception):
    """The child did not do it, and why."""


def run(asked: Asked) -> int:
    """Show it, or say what is missing."""
    job = readable(asked)
    if job.dry_run:
        show(f"would read {data_url(job)} and write contact sheets to {job.inspect.out or job.storage.root}")
        return 0
    with tempfile.TemporaryDirectory(prefix="convoy-inspect-") as folder:
        path = Path(folder, "job.yaml")
        path.write_text(dump_job(job))
        return _show(path, Path(folder, "log"))


def readable(asked: Asked) -> JobSpec:
    """The job whose prepared set is there; refused with the next thing to type where it is not.

    `data.path=URL` of a prepared set is enough: where no other `data` was asked for, it is read as data=tfrecord.
    """
    job = existing_run(asked)[1] if asked.job.run_id is not None else asked.job
    data = job.data
    if data.name != PREPARED and data.path is not None and _holds_set(data.path):
        if "data" in asked.typed or asked.job.run_id is not None:
            law = f"data={data.name} reads a source, and there is a prepared set here"
            raise BadSpec.of("data.path", data.path, law, f"data={PREPARED} data.path={data.path}")
        channels = data.channels if "data.channels" in asked.typed else DataSpec().channels
        job = dataclasses.replace(job, data=dataclasses.replace(data, name=PREPARED, channels=channels))
    url = data_url(job)
    if not _holds_set(url):
        cure = "prepare it first: the same words with job=prepare; or show another one: data=tfrecord data.path=URL"
        if job.data.name == PREPARED:
            cure = "give the folder that job=prepare wrote (it says which)"
        raise BadSpec.of("data", job.data.name, f"there is no prepared set in {url}", cure)
    return job


def _holds_set(url: str) -> bool:
    try:
        return is_prepared(url)
    except StoreError:
        if "://" in url:
            raise  # a bucket that does not answer is no missing set
        return False


def _show(job: Path, log: Path) -> int:
    console = Console()
    read_end, write_end = os.pipe()
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, "--job", str(job)],
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
        found, error = _listen(read_end, console)
        code = child.wait()
    finally:
        child.kill()
        child.wait()
        console.rest()
    if code == 0 and found is not None:
        console.say("\n".join([*found["lines"], "", *_places(found["sheets"])]))
        return 0
    refuse(Failed(error or "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])))
    return code if code == BAD_SPEC else 1


def _listen(pipe: int, console: Console) -> tuple[dict[str, Any] | None, str | None]:
    """Read what the child says until it ends: what it found, and its error."""
    found, error = None, None
    with os.fdopen(pipe, "r") as lines:
        for line in lines:
            told = json.loads(line)
            if told["kind"] == "progress":
                console.progress(told | {"phase": "drawing classes", "examples_per_s": None})
            elif told["kind"] == "event":
                found = told["details"]
            elif told["kind"] == "error":
                error = str(told["message"])
    return found, error


def _places(sheets: list[str]) -> list[str]:
    """Where the sheets are: the folder, and those of them that have names of their own."""
    folder = sheets[0].rpartition("/")[0]
    names = [sheet.rpartition("/")[2] for sheet in sheets]
    lines = [f"contact sheets in {folder}/"]
    return [
        *lines,
        *(f"  {name}" for name in (names if len(names) <= _TAIL else [*names[: _TAIL - 1], "...", names[-1]])),
    ]
