"""One child under watch, on its agent's host.

Two threads: one starts the child and waits for its end, one reads its progress lines. A poll waits for news.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.child import Child, Ends, StandbyGone, start_child
from launcher.log_copy import LogCopy
from launcher.memory_kills import memory_kills
from launcher.messages import Order, Standby, WorkerStatus
from storage.run_dir import RunDir
from storage.staging import sweep

MAX_EVENTS = 1000
PIPE_DRAIN_S = 0.5  # after the child's end; a grandchild may hold the pipe open
LARGEST_LINE = 1 << 20
TAIL_BYTES = 1 << 16
DUMP_STACKS = "dump stacks"
#: A child that waits in C and keeps Python's lock cannot read what it is told; a signal reaches it all the same.
NATIVE_AFTER_S = 1.0


class Watch:
    """One child from start to end."""

    def __init__(self, rank: int, order: Order, standby: Standby | None, run_dir: RunDir):
        self._rank = rank
        self._order = order
        self._run_dir = run_dir
        self._log = run_dir.local(order.log)
        self._standby = standby
        self._changed = threading.Condition()
        self._urgent = False
        self._begun = self._heard = time.monotonic()
        self._child: Child | None = None
        self._killed = threading.Event()
        self._memory_kills = memory_kills()
        self._exit_code: int | None = None
        self._exit_time = 0.0
        self._progress: dict[str, Any] = {}
        self._first_step: int | None = None
        self._longest_silence_s = 0.0
        self._events: deque[Mapping[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._error: dict[str, Any] | None = None
        self._result: dict[str, Any] | None = None
        control_end, self._control = os.pipe()
        self._progress_pipe, progress_end = os.pipe()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        ends = Ends(control_end, progress_end, log)
        self._log_copy = LogCopy(run_dir, order.log, self._log)
        self._reader = threading.Thread(target=self._read, name="progress", daemon=True)
        self._watcher = threading.Thread(target=self._watch, args=(ends,), name="watch", daemon=True)
        self._reader.start()
        self._watcher.start()

    def poll(self, wait_s: float) -> WorkerStatus:
        """Its status: at once when it ended or has an event to tell, else after `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._urgent, wait_s)
            self._urgent = False
            events = tuple(self._events)
            self._events.clear()
            return WorkerStatus(
                rank=self._rank,
                started=True,
                pid=self._child.pid if self._child else None,
                exit_code=self._exit_code,
                exit_time=self._exit_time,
                silent_s=time.monotonic() - self._heard,
                suspended=self._child is not None and self._exit_code is None and is_suspended(self._child.pid),
                longest_silence_s=self._longest_silence_s,
                progress=dict(self._progress),
                first_step=self._first_step,
                events=events,
                error=self._error,
                result=self._result,
            )

    def send(self, line: str) -> None:
        """Write a line into its control pipe. A child that is gone needs no telling."""
        with contextlib.suppress(OSError):
            os.write(self._control, line.encode() + b"\n")
        if line == DUMP_STACKS:
            threading.Timer(NATIVE_AFTER_S, self._ask_for_native_stacks).start()

    def _ask_for_native_stacks(self) -> None:
        with self._changed:
            if self._child and self._exit_code is None:
                self._child.ask_for_stacks()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._killed.set()
        with self._changed:
            if self._child and self._exit_code is None:
                self._child.kill()
        with self._changed:
            self._changed.wait_for(lambda: self._exit_code is not None)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and its log is where the run directory is."""
        return not self._watcher.is_alive()

    def close(self) -> None:
        """Wait until its log is where the run directory is. Afterwards nothing of it is on this machine."""
        self._watcher.join()
        self._run_dir.close()

    def tail(self, lines: int) -> list[str]:
        """The last lines of its log."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines:]

    def _watch(self, ends: Ends) -> None:
        """Start the child and stay until its end: it dies when the thread that started it does."""
        try:
            exit_code = self._start(ends)
        except (OSError, ValueError) as error:
            self._take({"kind": "error", "error_kind": "infrastructure", "message": f"cannot start a process: {error}"})
            exit_code = 1
        finally:
            for fd in (ends.control, ends.progress, ends.log):
                os.close(fd)
        if self._child is not None:
            exit_code = self._child.wait()
            if exit_code == -signal.SIGKILL and not self._killed.is_set() and memory_kills() > self._memory_kills:
                said = "killed by the kernel (signal 9), which had run out of memory meanwhile"
                self._take({"kind": "error", "error_kind": "out_of_memory", "message": said})
            self._reader.join(PIPE_DRAIN_S)
        with self._changed:
            os.close(self._control)
            self._control = -1
            self._exit_code, self._exit_time = exit_code, time.time()
            self._urgent = True
            self._changed.notify_all()
        self._log_copy.finish()
        sweep()  # a child that was killed has left its temporary files

    def _start(self, ends: Ends) -> int:
        try:
            child = start_child(self._order, ends, self._standby, self._killed)
        except StandbyGone as error:
            if self._killed.is_set():
                return -signal.SIGKILL
            self._take({"kind": "event", "event": "standby_gone", "details": {"reason": str(error)}})
            child = start_child(self._order, ends, None, self._killed)
        with self._changed:
            self._child = child
            if self._killed.is_set():
                child.kill()
        return 0

    def _read(self) -> None:
        with os.fdopen(self._progress_pipe, "rb") as pipe:
            while line := pipe.readline(LARGEST_LINE):
                with contextlib.suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        """Keep what a progress line says."""
        with self._changed:
            before, self._heard = self._heard, time.monotonic()
            if self._first_step is not None:
                self._longest_silence_s = max(self._longest_silence_s, self._heard - before)
            kind = message.pop("kind", None)
            if kind == "progress":
                self._take_progress(message)
            elif kind == "result":
                self._result = message
            elif kind == "error":
                self._error = self._error or message
            elif kind == "event":
                self._events.append(message | {"seen": time.time()})
                self._tell()

    def _take_progress(self, message: dict[str, Any]) -> None:
        # A new phase is told at once; within one the driver's own rhythm is enough.
        if message.get("phase") != self._progress.get("phase"):
            self._tell()
        self._progress.update(message)
        step = message.get("step")
        if self._first_step is None and message.get("phase") == "training" and step is not None:
            self._first_step = step

    def _tell(self) -> None:
        self._urgent = True
        self._changed.notify_all()


def is_suspended(pid: int) -> bool:
    """Whether the kernel says that a process is stopped, by SIGSTOP or a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
