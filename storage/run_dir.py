"""The run directory: the only place that knows the names inside it.

job.yaml                              what was asked first
outcome.json                          how it ended
events.jsonl                          what happened when; in a far store one object an event, in events/
micro_batch.json                      the micro-batch of trainer.micro_batch=auto, as it was found, or lowered since
attempts/NN/{job.yaml,rank_R.log,rank_R.stacks}; in a far store rank_R.log.part-* while the worker runs
attempts/NN/taken_by.json             which process the number belongs to: of a training, or of a task beside it
attempts/NN/micro_batch_R.json        what trainer.probe found for a worker
checkpoints/step_XXXXXXXX/            trainer/checkpoints.py knows what is in there
tensorboard/  report/{metrics,goodput,benchmark,blow_ups,find_lr}.json  report/find_lr.png  export/saved_model/
sweep.json  trials/NNN.log  report/sweep.{json,csv}   of a sweep, whose trials are runs of their own
"""

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.names import checked_name, disk_error
from storage.staging import Staging
from storage.store import NotStored, Stored, StoreError, open_store

JOB = "job.yaml"
OUTCOME = "outcome.json"
MICRO_BATCH = "micro_batch.json"
EVENTS = "events.jsonl"
EVENTS_FOLDER = "events"
ATTEMPTS = "attempts"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
LOG_PART = ".part-"
METRICS = "report/metrics.json"
BLOW_UPS = "report/blow_ups.json"
GOODPUT = "report/goodput.json"
BENCHMARK = "report/benchmark.json"
FIND_LR = "report/find_lr.json"
FIND_LR_PLOT = "report/find_lr.png"
SWEEP = "sweep.json"
SWEEP_REPORT = "report/sweep.json"
SWEEP_TABLE = "report/sweep.csv"
SAVED_MODEL = "export/saved_model"
KERAS_FILES = {"keras": "export/model.keras", "weights_h5": "export/model.weights.h5"}

#: Uploads of one `publish` at a time.
FILES_AT_ONCE = 8
#: Small objects that are read at a time.
EVENTS_AT_ONCE = 16

_JOB_URL = re.compile(r"(?P<root>.*?)/?(?P<run_id>[^/]+)(/attempts/\d+)?/job\.yaml")
_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/step_(\d+)(/|$)")


def attempt_job_name(attempt: int) -> str:
    """The job as one attempt runs it: the same learning, the cluster of that attempt."""
    return f"{ATTEMPTS}/{attempt:02d}/{JOB}"


def attempt_claim_name(attempt: int) -> str:
    """Who took the number of an attempt."""
    return f"{ATTEMPTS}/{attempt:02d}/taken_by.json"


def log_name(attempt: int, rank: int) -> str:
    """What a worker printed."""
    return f"{ATTEMPTS}/{attempt:02d}/rank_{rank}.log"


def log_part_name(log: str, number: int) -> str:
    """A part of a log in a far store, until the whole is there."""
    return f"{log}{LOG_PART}{number:06d}"


def probe_name(attempt: int, rank: int) -> str:
    """The largest micro-batch that fits a worker."""
    return f"{ATTEMPTS}/{attempt:02d}/micro_batch_{rank}.json"


def stacks_name(attempt: int, rank: int) -> str:
    """The Python stacks of a worker that stalled."""
    return f"{ATTEMPTS}/{attempt:02d}/rank_{rank}.stacks"


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint that was taken after `step` steps."""
    return f"{CHECKPOINTS}/step_{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """The step of the checkpoint that an object or folder belongs to; None if it belongs to none."""
    match = _CHECKPOINT.match(name)
    return int(match[1]) if match else None


class RunDir:
    """The folder <root>/<run_id> in a store."""

    def __init__(self, root_url: str, run_id: str):
        if "/" in run_id:
            raise StoreError(f"{root_url}: run_id={run_id!r} - a run_id is one name without '/' - mend the name")
        self.run_id = checked_name(root_url, run_id)
        self.store = open_store(f"{root_url.rstrip('/') or '/'}/{run_id}")
        self.url = self.store.url
        self._staging: Staging | None = None

    @classmethod
    def of_job(cls, url: str) -> "RunDir":
        """The run directory that a job.yaml lies in: the run's own or one of an attempt."""
        match = _JOB_URL.fullmatch(url if "://" in url else str(Path(url).expanduser().absolute()))
        if match is None:
            raise StoreError(f"{url}: not the job.yaml of a run - give <root>/<run_id>/{JOB}")
        return cls(match["root"] or "/", match["run_id"])

    def exists(self) -> bool:
        """Whether a job was written here."""
        return self.store.exists(JOB)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        open_store(self.url.rpartition("/")[0] or "/").delete_folder(self.run_id)

    def read_json(self, name: str) -> Any:
        """The value in a JSON object. NotStored if there is none; StoreError if it is not JSON."""
        try:
            return json.loads(self.store.get(name))
        except ValueError as error:
            raise StoreError(f"{self.url}/{name}: not JSON: {error} - restore the file or remove it") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write the value as JSON, whole or not at all."""
        self.store.put(name, (json.dumps(value, indent=2) + "\n").encode())

    def append_event(self, event: dict[str, Any]) -> None:
        """Add one event; "time" is filled in. Processes may append at the same time."""
        event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        line = json.dumps(event).encode() + b"\n"
        path = self.store.local_path(EVENTS)
        if path is None:
            self.store.put(f"{EVENTS_FOLDER}/{time.time_ns():020d}-{secrets.token_hex(4)}.json", line)
            return
        try:
            _append(path, line)
        except OSError as error:
            raise disk_error("append to", str(path), error) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """All events, oldest first. What is none, as a line that a dying process left half written, is passed over."""
        for text in self._event_texts():
            for line in text.splitlines():
                with contextlib.suppress(ValueError, RecursionError):
                    if _is_event(event := json.loads(line)):
                        yield event

    def _event_texts(self) -> Iterator[bytes]:
        with contextlib.suppress(NotStored):
            yield self.store.get(EVENTS)
        names = [stored.name for stored in self.store.list(f"{EVENTS_FOLDER}/")]
        with ThreadPoolExecutor(EVENTS_AT_ONCE) as pool:
            yield from pool.map(self.store.get, names)

    def local(self, name: str) -> Path:
        """A path on this machine to write `name` to; its parent exists. Call `publish(name)` when it is written."""
        path = self.store.local_path(name)
        if path is None:
            self._staging = self._staging or Staging()
            path = self._staging.folder / checked_name(self.url, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error("make the folder of", str(path), error) from error
        return path

    def close(self) -> None:
        """Remove what was written here on its way to a far store. It is removed with this object, too."""
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def publish(self, name: str) -> list[Stored]:
        """Upload the file or folder that was written to `local(name)`. For a local store there is nothing to do."""
        if self.store.local_path(name) is not None:
            return []
        path = self.local(name)
        if not path.exists():
            raise NotStored(f"{path}: cannot publish {name} - nothing was written there")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        names = [_below(name, file.relative_to(path)) for file in files]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return list(pool.map(self.store.put_file, names, files))


def _below(name: str, relative: Path) -> str:
    return name if relative == Path() else f"{name}/{relative.as_posix()}"


def _is_event(found: Any) -> bool:
    """Whether it has the form of one, so that whoever reads it need not ask."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("details") or {}, dict)
        and all(isinstance(found.get(name) or 0, int) for name in ("attempt", "rank"))
    )


def _append(path: Path, line: bytes) -> None:
    """Add a line in one write; a half line that is there already is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" + line if torn else line)
    finally:
        os.close(descriptor)
