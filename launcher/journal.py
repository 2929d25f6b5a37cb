"""What the driver writes into the run directory while a job runs, and the stop request it reads there."""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from launcher.goodput import goodput
from launcher.messages import WorkerStatus
from storage.run_dir import GOODPUT, OUTCOME, RunDir, attempt_claim_name, attempt_job_name
from storage.store import StoreError

logger = logging.getLogger(__name__)
STOP_REQUEST = "stop_requested.json"
LOOK_EVERY_S = 1.0
#: How much of the account of its time a run may lose when its driver is killed.
SPENT_EVERY_S = 60.0


#: Writes to far stores, in order, whichever journal they come from: a bucket that does not answer must not keep the
#: driver from watching its workers.
_aside = ThreadPoolExecutor(1, thread_name_prefix="journal")
#: How long the end of a job waits for them.
SETTLE_S = 120.0
_given_up = threading.Event()


class Journal:
    """Events and outcome of one run. A store that fails for a moment does not end a training.

    As a context manager it sees that everything is written when the block is left.
    """

    def __init__(self, run_dir: RunDir, task: str | None = None, hears_stop: bool = True):
        """`task` names what is done with a run beside its training, perhaps at the same time: its events say so.

        A task that does not drive the run leaves requests to stop to who does.
        """
        self._run_dir, self._task, self._hears_stop = run_dir, task, hears_stop
        self._is_near = run_dir.store.local_path(OUTCOME) is not None
        self._looked = 0.0
        self._look: Future[bool] | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    def event(self, kind: str, attempt: int, rank: int | None = None, /, **details: Any) -> None:
        """Something that the driver did or saw."""
        self._append({"kind": kind, "attempt": attempt, "rank": rank, "details": details})

    def told(self, attempt: int, rank: int, event: Mapping[str, Any]) -> None:
        """Something that a worker told."""
        kind = str(event.get("event", "event"))
        self._append({"kind": kind, "attempt": attempt, "rank": rank, "details": event.get("details", {})})

    def outcome(self, state: str, attempts: int, step: int, reason: str) -> None:
        """How the job ended."""
        self._run_dir.write_json(OUTCOME, {"state": state, "attempts": attempts, "step": step, "reason": reason})
        self._append({"kind": state, "attempt": attempts, "rank": None, "details": {"step": step, "reason": reason}})
        self.settle()

    def attempt_after(self, attempt: int) -> int:
        """The next number that is nobody's, which is ours from now on: what is done beside a training counts too."""
        owner = {"task": self._task or "train", "host": socket.gethostname(), "pid": os.getpid()}
        claim = json.dumps(owner | {"nonce": secrets.token_hex(8)}).encode()
        while not self._run_dir.store.put_if_absent(attempt_claim_name(attempt := attempt + 1), claim):
            continue
        return attempt

    def settle(self) -> None:
        """Wait until everything that was told is written, or was found not to be writable."""
        if self._is_near:
            return
        try:
            _aside.submit(int).result(SETTLE_S)
        except TimeoutError:
            if not _given_up.is_set():
                law = "%s: the store has not answered for %.0f s; the last events of the run are not written"
                logger.warning(law, self._run_dir.url, SETTLE_S)
            _given_up.set()  # else the process could not end before each of them has failed as often as it may

    def goodput(self) -> None:
        """What became of the run's time, as far as its events tell."""
        self.settle()
        try:
            self._run_dir.write_json(GOODPUT, goodput(self._run_dir.events()).to_json())
        except StoreError as error:
            logger.warning("cannot write %s: %s", GOODPUT, error)

    def stop_requested(self) -> bool:
        """Whether `job=stop` left its request. Looks about once a second, and takes the request away."""
        if not self._hears_stop:
            return False
        now = time.monotonic()
        if self._look is not None:
            if not self._look.done():
                return False
            found, self._look = self._look.result(), None
            return found
        if now - self._looked < LOOK_EVERY_S:
            return False
        self._looked = now
        if self._is_near:
            return self._take_stop_request()
        self._look = _aside.submit(self._take_stop_request)
        return False

    def _take_stop_request(self) -> bool:
        try:
            if self._run_dir.store.exists(STOP_REQUEST):
                self._run_dir.store.delete(STOP_REQUEST)
                return True
        except StoreError as error:
            logger.warning("cannot look for a stop request: %s", error)
        return False

    def forget_stop(self) -> None:
        """An old request is not for the run that begins now."""
        self._run_dir.store.delete(STOP_REQUEST)

    def folder(self, attempt: int) -> str:
        """Where an attempt keeps its logs."""
        return f"{self._run_dir.url}/{attempt_job_name(attempt).rpartition('/')[0]}"

    def _append(self, event: dict[str, Any]) -> None:
        event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        if self._task:
            event["task"] = self._task
        if self._is_near:
            self._write(event)
        else:
            _aside.submit(self._write, event)

    def _write(self, event: dict[str, Any]) -> None:
        if _given_up.is_set():
            return
        try:
            self._run_dir.append_event(event)
        except StoreError as error:
            logger.warning("cannot write an event: %s", error)


class Spent:
    """What the chief of an attempt last told of its time, written down now and then and at the attempt's end."""

    def __init__(self, journal: Journal):
        self._journal = journal
        self.forget()

    def forget(self) -> None:
        """A new attempt begins."""
        self._spent: Mapping[str, Any] = {}
        self._heard = self._written = time.monotonic()

    def note(self, attempt: int, chief: WorkerStatus) -> None:
        """Take in the chief's status."""
        spent = (chief.result or {}).get("spent") or chief.progress.get("spent") or {}
        if spent == self._spent:
            return
        self._spent, self._heard = spent, time.monotonic()
        is_saved = any(event.get("event") == "checkpoint_saved" for event in chief.events)
        if is_saved or self._heard - self._written >= SPENT_EVERY_S:
            self._written = self._heard
            self._journal.event("spent", attempt, 0, **spent)

    def last(self) -> dict[str, Any]:
        """The last account and how long ago it was told; nothing if there was none."""
        return {"spent": self._spent, "silent_s": round(time.monotonic() - self._heard, 3)} if self._spent else {}
