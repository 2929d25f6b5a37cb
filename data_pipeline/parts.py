"""The cores of one host share a preparation: forked processes take shard after shard, one progress tells of them all.

A fork inherits the list of what is to be done, so it costs milliseconds. Which shard comes next is read from a pipe
that all share. When one of them fails or is killed, all end; the shards they finished stay.
"""

import ctypes
import fcntl
import json
import os
import selectors
import signal
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from data_pipeline.progress import Progress

#: What a process does with the shard of this number, telling how many more examples are done.
Work = Callable[[int, Callable[[int], None]], None]

_NUMBER = struct.Struct("<I")
_TOLD_EVERY_S = 0.05  # whoever listens needs the same cores
_PIPE_BYTES = 1 << 20  # as much as Linux lets anybody have
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class PartFailed(Exception):
    """One of the processes could not do its part. `message` is what it said; empty when it was killed."""

    def __init__(self, message: dict[str, Any]):
        super().__init__(message["message"])
        self.message = message


def share(
    numbers: Sequence[int],
    num_processes: int,
    work: Work,
    progress: Progress,
    explain: Callable[[Exception], dict[str, Any]],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Do `work` for each of `numbers` in so many processes. PartFailed with the first failure.

    `explain` turns what a process raised into the message that ends the preparation. `meanwhile` is something short
    that this process does beside them.
    """
    queue, count = _filled_queue(len(numbers))
    parts: dict[int, int] = {}  # where it tells -> its process
    try:
        for _ in range(num_processes):
            told, tells = os.pipe()
            pid = os.fork()
            if pid == 0:
                _part([numbers[at::count] for at in range(count)], queue, tells, work, explain)
            os.close(tells)
            parts[told] = pid
        meanwhile()
        _listen(dict(parts), progress)
    finally:
        os.close(queue)
        for told, pid in parts.items():
            os.kill(pid, signal.SIGKILL)  # one that has ended is not reaped yet, so the number is still its own
            os.waitpid(pid, 0)
            os.close(told)


def _filled_queue(wanted: int) -> tuple[int, int]:
    """A pipe that holds the numbers 0 ... `wanted` - 1, or as many as fit; reading four bytes takes one from it."""
    queue, fill = os.pipe()
    held = fcntl.fcntl(fill, fcntl.F_GETPIPE_SZ)
    if wanted * _NUMBER.size > held:
        held = fcntl.fcntl(fill, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    count = min(wanted, held // _NUMBER.size)
    os.write(fill, b"".join(map(_NUMBER.pack, range(count))))
    os.close(fill)
    return queue, count


def _part(
    tasks: Sequence[Sequence[int]],
    queue: int,
    tells: int,
    work: Work,
    explain: Callable[[Exception], dict[str, Any]],
) -> NoReturn:
    """A forked process: from here to its end. Nothing that its parent has open is closed or flushed by it."""
    code = 1
    try:
        _die_with_parent()

        told = _Told(tells)
        try:
            while taken := os.read(queue, _NUMBER.size):
                for number in tasks[_NUMBER.unpack(taken)[0]]:
                    work(number, told.advance)
            told.now()
            code = 0
        except Exception as error:
            told.now()
            told.tell(explain(error))
    finally:
        os._exit(code)


class _Told:
    """What one of the processes tells, and how many examples it has done since it last did."""

    def __init__(self, tells: int):
        self._tells = tells
        self._done = 0
        self._last = time.monotonic()

    def advance(self, count: int) -> None:
        """So many more; told now and then."""
        self._done += count
        if time.monotonic() - self._last >= _TOLD_EVERY_S:
            self.now()

    def now(self) -> None:
        """What has not been told yet."""
        if self._done:
            self.tell({"done": self._done})
        self._done, self._last = 0, time.monotonic()

    def tell(self, message: dict[str, Any]) -> None:
        """A line of JSON."""
        os.write(self._tells, (json.dumps(message) + "\n").encode())


def _die_with_parent() -> None:
    """SIGKILL when the parent dies, however it does."""
    parent = os.getppid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


def _listen(parts: dict[int, int], progress: Progress) -> None:
    """Until every process has ended well; PartFailed as soon as one has not."""
    unread = dict.fromkeys(parts, b"")
    with selectors.DefaultSelector() as selector:
        for told in parts:
            selector.register(told, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                told = key.fd
                chunk = os.read(told, 1 << 16)
                *lines, unread[told] = (unread[told] + chunk).split(b"\n")
                for line in lines:
                    _take(json.loads(line), progress)
                if not chunk:
                    selector.unregister(told)
                    _check_end(parts[told])


def _take(message: dict[str, Any], progress: Progress) -> None:
    if "done" not in message:
        raise PartFailed(message)
    progress.advance(message["done"])


def _check_end(pid: int) -> None:
    # It is left to be reaped: whoever kills it later must not meet another process of the same number.
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if ended is None or ended.si_status == 0:
        return
    killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
    how = f"was killed by signal {ended.si_status}" if killed else f"ended with exit code {ended.si_status}"
    message = f"a process that prepares {how} - the same command goes on where it stopped"
    raise PartFailed({"kind": "error", "error_kind": "infrastructure", "message": message})
