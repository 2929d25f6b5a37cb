"""One child process: cold (a fresh Python) or forked by the standby server. Both end up with the same three pipes."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.messages import Order, Standby

#: Where our packages are; children find them there, whatever the working directory holds.
ROOT = str(Path(__file__).resolve().parents[1])
#: A standby server that has not imported TensorFlow by then is taken for lost.
STANDBY_TIMEOUT_S = 120.0
#: A fork takes milliseconds; a server that has not answered by then stands still.
ANSWER_S = 30.0
LOOK_S = 1.0
#: A child is gone, and so many looks later its server has not told yet.
GONE_LOOKS = 10
CONTROL_FD, PROGRESS_FD = "CONVOY_CONTROL_FD", "CONVOY_PROGRESS_FD"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StandbyGone(Exception):
    """The standby server cannot be used; a cold child can."""


@dataclass(frozen=True)
class Ends:
    """The child's ends of the pipes, and its log."""

    control: int
    progress: int
    log: int


class Child(Protocol):
    """A process that was started."""

    pid: int

    def wait(self) -> int:
        """Its exit code; a signal is negative."""

    def kill(self) -> None:
        """End it and what it started, at once."""

    def ask_for_stacks(self) -> None:
        """SIGUSR1, at which a worker's faulthandler writes into its log where all its threads are."""


def die_with_parent() -> None:
    """Runs in a new child before it becomes what it shall be: SIGKILL when the parent dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def child_environ(added: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what Ray put there for itself, plus `added`, with our packages first."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if "OMP_NUM_THREADS" in environ and "RAY_RAYLET_PID" in os.environ:
        del environ["OMP_NUM_THREADS"]  # Ray's own idea for a worker; TensorFlow shall decide
    environ |= added
    paths = [ROOT, *filter(None, [added.get("PYTHONPATH"), os.environ.get("PYTHONPATH")])]
    return environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def start_child(order: Order, ends: Ends, standby: Standby | None, cancelled: threading.Event) -> Child:
    """Start what `order` says, forked if there is a standby server. Raises StandbyGone; the caller may go cold."""
    return ForkedChild(order, ends, standby, cancelled) if standby else ColdChild(order, ends)


class ColdChild:
    """A fresh Python in a session of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(self, order: Order, ends: Ends):
        fds = {CONTROL_FD: str(ends.control), PROGRESS_FD: str(ends.progress)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", order.module, *order.argv],
            env=child_environ(order.env) | fds,
            cwd=_cwd(order),
            stdin=subprocess.DEVNULL,
            stdout=ends.log,
            stderr=ends.log,
            pass_fds=(ends.control, ends.progress),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.pid = self._process.pid

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait()

    def ask_for_stacks(self) -> None:
        """SIGUSR1 to it alone."""
        self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """SIGKILL to its whole session's group."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class ForkedChild:
    """A fork of the standby server. One connection a child; closing it kills the child."""

    def __init__(self, order: Order, ends: Ends, standby: Standby, cancelled: threading.Event):
        self._socket = _connect(standby, cancelled)
        environ = dict(order.env) | {"PYTHONPATH": child_environ(order.env)["PYTHONPATH"]}
        request = {"argv": list(order.argv), "env": environ, "cwd": _cwd(order)}
        self._told = b""
        try:
            fds = [ends.control, ends.progress, ends.log]
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], fds)
            self.pid = int(self._started(cancelled)["pid"])
        except (OSError, ValueError, KeyError) as error:
            self._socket.close()
            raise StandbyGone(f"the standby server did not start a worker: {error}") from error

    def wait(self) -> int:
        """Its exit code; -9 if the server went away, for then its children die too, or cannot tell any more."""
        gone = 0
        try:
            while (answer := self._answer()) is None:
                gone = 0 if _lives(self.pid) else gone + 1
                if gone == GONE_LOOKS:
                    return -signal.SIGKILL
            return int(answer["exit"])
        except (OSError, ValueError, KeyError):
            return -signal.SIGKILL
        finally:
            self._socket.close()

    def kill(self) -> None:
        """SIGKILL; the server reports the end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def ask_for_stacks(self) -> None:
        """SIGUSR1 to it alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    def _started(self, cancelled: threading.Event) -> dict[str, int]:
        deadline = time.monotonic() + ANSWER_S
        while (answer := self._answer()) is None:
            if cancelled.is_set() or time.monotonic() > deadline:
                raise ValueError("it does not answer")
        return answer

    def _answer(self) -> dict[str, int] | None:
        """The next line that the server says; None where it says nothing for a moment."""
        self._socket.settimeout(LOOK_S)
        while b"\n" not in self._told:
            try:
                said = self._socket.recv(4096)
            except TimeoutError:
                return None
            if not said:
                raise ValueError("it closed the connection")
            self._told += said
        line, _, self._told = self._told.partition(b"\n")
        return dict(json.loads(line))


def _connect(standby: Standby, cancelled: threading.Event) -> socket.socket:
    """Wait until the server has imported what it imports and listens."""
    deadline = time.monotonic() + STANDBY_TIMEOUT_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(standby.socket)
            return connection
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if cancelled.is_set() or time.monotonic() > deadline or not _lives(standby.pid):
                raise StandbyGone(f"the standby server is not there: {error}") from error
        cancelled.wait(0.02)


def _lives(pid: int) -> bool:
    """A zombie is dead, although its pid still answers."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _cwd(order: Order) -> str:
    return order.cwd if order.cwd and os.path.isdir(order.cwd) else ROOT
