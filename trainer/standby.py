"""The fork server: a process that has imported TensorFlow and forks a fresh worker for each request.

    python -m trainer.standby --socket PATH

It does nothing with TensorFlow but import it, so that its children may still choose devices, threads and strategy. One
connection a child. The agent sends one line of JSON, {"argv": [...], "env": {...}, "cwd": "..."}, with three file
descriptors: the control pipe to read, the progress pipe to write, the log. It hears {"pid": N} and, when the child has
ended, {"exit": code}, negative for a signal. An agent that closes its connection wants the child dead.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer import worker
from trainer.channel import CONTROL_FD, PROGRESS_FD

PR_SET_PDEATHSIG = 1
MAX_REQUEST_BYTES = 1 << 20
#: When nothing has happened for so long there is time for what makes the next start faster.
IDLE_S = 2.0


class ForkServer:
    """Listens on a Unix socket, forks, reaps, reports."""

    def __init__(self, path: Path):
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, socket.socket] = {}
        self._last: list[str] | None = None  # the command line of the last child, until its job is read
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Bound under another name and moved: whoever sees the socket can connect to it.
        fresh = path.with_name(f"{path.name}.new")
        self._listener.bind(str(fresh))
        self._listener.listen(64)
        fresh.rename(path)
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the process is killed."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        while True:
            events = self._selector.select(None if self._last is None else IDLE_S)
            if not events:
                self._read_ahead()
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._start(self._listener.accept()[0])
                elif key.fileobj == self._wake:
                    os.read(self._wake, 4096)
                    self._reap()
                else:
                    self._hang_up(key.fileobj)

    def _start(self, connection: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
        while data and not data.endswith(b"\n"):
            data += connection.recv(MAX_REQUEST_BYTES)
        if len(fds) != 3 or not data:
            connection.close()
            return
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no memory, or too many processes: the agent hears it by the end of the connection
            for fd in fds:
                os.close(fd)
            connection.close()
            return
        if pid == 0:
            self._close_all(connection)
            become_worker(json.loads(data), fds, parent)
        for fd in fds:
            os.close(fd)
        self._last = json.loads(data)["argv"]
        self._children[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # an agent that has gone already wants the child dead: see `_hang_up`
            connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")

    def _read_ahead(self) -> None:
        argv, self._last = self._last, None
        with contextlib.suppress(Exception, SystemExit):  # whoever really wants the job will say what is wrong with it
            worker.read_job_ahead(argv or [])

    def _close_all(self, connection: socket.socket) -> None:
        """The child keeps nothing of the server: an open copy would hide the end of somebody else's connection."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for other in [self._listener, connection, *self._children.values()]:
            other.close()
        os.close(self._wake)
        os.close(self._woken)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._children.pop(pid, None)
            if connection is not None:
                self._forget(connection, {"exit": os.waitstatus_to_exitcode(status)})

    def _forget(self, connection: socket.socket, last_word: dict[str, int]) -> None:
        self._selector.unregister(connection)
        with contextlib.suppress(OSError):  # The agent may have gone; then nobody wants to know.
            connection.sendall(json.dumps(last_word).encode() + b"\n")
        connection.close()

    def _hang_up(self, connection: object) -> None:
        pid = next((pid for pid, known in self._children.items() if known is connection), None)
        if pid is not None:
            # Reaped, and its connection closed, when SIGCHLD comes.
            os.kill(pid, signal.SIGKILL)
            self._selector.unregister(self._children[pid])
            self._children.pop(pid).close()
            os.waitpid(pid, 0)


def become_worker(request: dict, fds: Sequence[int], parent: int) -> None:
    """Turn this fork into the worker that was asked for. Does not return."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    control, progress, log = fds
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.environ.update(request["env"])
    os.environ |= {CONTROL_FD: str(control), PROGRESS_FD: str(progress)}
    os.chdir(request["cwd"])
    worker.run_and_exit(request["argv"])


def main() -> None:
    """Listen until killed."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.standby", description="Fork workers that need not import TensorFlow."
    )
    parser.add_argument("--socket", required=True, type=Path, help="where to listen (a Unix socket)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.close()
    # What was imported stays in shared memory: the children's collector need not touch it.
    gc.collect()
    gc.freeze()
    ForkServer(arguments.socket).serve()


if __name__ == "__main__":
    main()
