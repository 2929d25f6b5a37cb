"""The two pipes between a worker and the agent that started it, or, where a person started it, the terminal.

The agent sends lines: `stop`, `dump stacks`, and SIGUSR1 to a worker that may not be able to read them. The end of that
pipe means that the agent is gone, and the worker ends at once, so that nothing is left running. The worker sends lines
of JSON; they are the heartbeat too.
"""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from conf import exit_codes
from storage.store import StoreError

CONTROL_FD = "CONVOY_CONTROL_FD"
PROGRESS_FD = "CONVOY_PROGRESS_FD"
LOG = 2
#: Of what is said, nothing for a person.
FOR_THE_LAUNCHER = ("pace", "spent")


class Channel(Protocol):
    """What a worker says, and whether it was asked to stop."""

    stop_requested: bool

    def say(self, kind: str, **fields: Any) -> None:
        """Say something: `kind` is progress, event, error or result."""


def open_channel(environment: Mapping[str, str], keep_stacks: Callable[[bytes], None], is_chief: bool) -> Channel:
    """The agent's pipes where there is an agent, else the terminal. `keep_stacks` is given Python stacks to keep."""
    if PROGRESS_FD in environment:
        return Pipes(int(environment[CONTROL_FD]), int(environment[PROGRESS_FD]), keep_stacks)
    return Terminal(is_chief)


class Pipes:
    """The channel to an agent."""

    def __init__(self, control: int, progress: int, keep_stacks: Callable[[bytes], None]):
        self.stop_requested = False
        self._progress, self._keep_stacks, self._lock = progress, keep_stacks, threading.Lock()
        # Into the log: TensorFlow waits for other workers in C, with Python's lock held, where no thread can answer.
        faulthandler.register(signal.SIGUSR1, file=LOG)
        threading.Thread(target=self._listen, args=(control,), daemon=True, name="control").start()

    def say(self, kind: str, **fields: Any) -> None:
        """One line of JSON to the agent."""
        line = json.dumps({"kind": kind, "time": time.time(), **fields}) + "\n"
        try:
            with self._lock:
                os.write(self._progress, line.encode())
        except BrokenPipeError:
            os._exit(exit_codes.FAILED)

    def _listen(self, control: int) -> None:
        with os.fdopen(control, "r") as lines:
            for line in lines:
                if line.strip() == "stop":
                    self.stop_requested = True
                elif line.strip() == "dump stacks":
                    with contextlib.suppress(StoreError):
                        self._keep_stacks(stacks().encode())
        os._exit(exit_codes.FAILED)


def stacks() -> str:
    """The Python stacks of all threads by name, the main one first: that is the one that trains.

    Not faulthandler's: it stops after a hundred threads, the newest first.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda found: found[0] != main)
    parts = (f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}" for ident, frame in frames)
    return "\n".join(parts)


class Terminal:
    """The channel of a worker that a person started: a line now and then."""

    EVERY_S = 2.0

    def __init__(self, is_chief: bool):
        self.stop_requested = False
        self._is_chief, self._last, self._phase = is_chief, 0.0, ""

    def say(self, kind: str, **fields: Any) -> None:
        """Errors, results, events and the beginning of a phase at once; progress within one every two seconds."""
        if not self._is_chief or (kind == "progress" and self._is_too_soon(fields["phase"])):
            return
        told = {name: value for name, value in fields.items() if value is not None and name not in FOR_THE_LAUNCHER}
        words = (f"{name}={_short(value)}" for name, value in told.items())
        sys.stdout.write(f"{kind} {' '.join(words)}\n")
        sys.stdout.flush()

    def _is_too_soon(self, phase: str) -> bool:
        now = time.monotonic()
        if phase == self._phase and now - self._last < self.EVERY_S:
            return True
        self._last, self._phase = now, phase
        return False


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def stop_on_signals(channel: Channel) -> None:
    """Let SIGTERM (and Ctrl-C, for a worker without an agent) ask for a stop after the step at hand.

    Call it before TensorFlow makes its strategy and once more after: TensorFlow has handlers of its own.
    """

    def ask(_number: int, _frame: Any) -> None:
        channel.stop_requested = True

    signal.signal(signal.SIGTERM, ask)
    # The launcher holds SIGTERM back from Ray's processes, and a blocked signal stays blocked in their children.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, ask if isinstance(channel, Terminal) else signal.SIG_IGN)
