"""TensorBoard as a process of its own, on loopback, gone when the block is left."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from conf.errors import BadSpec
from launcher.child import child_environ, die_with_parent

HOST = "127.0.0.1"
RELOAD_S = 5
#: Imports take seconds, on a busy machine many of them.
START_S = 120.0
_TAIL = 10
_TAKEN = "already in use"


class NoBoard(Exception):
    """TensorBoard did not start, or has ended."""


class Board:
    """A running TensorBoard."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path):
        self._process, self._port, self._log = process, port, log
        self.url = f"http://{HOST}:{port}/"

    def check(self) -> None:
        """Raise NoBoard, or BadSpec where somebody else has its port, when it has ended."""
        if self._process.poll() is None:
            return
        said = self._log.read_text(errors="replace").strip()
        if _TAKEN in said:
            raise _taken(self._port)
        tail = "\n".join(said.splitlines()[-_TAIL:])
        raise NoBoard(f"TensorBoard ended with exit code {self._process.returncode}: {tail}")

    def wait_until_it_answers(self) -> None:
        """Until a browser would see something."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
        deadline = time.monotonic() + START_S
        while True:
            self.check()
            with contextlib.suppress(urllib.error.URLError, OSError):
                opener.open(self.url, timeout=5).close()
                return
            if time.monotonic() > deadline:
                raise NoBoard(f"TensorBoard did not answer on {self.url} within {START_S:g} s")
            time.sleep(0.1)


@contextlib.contextmanager
def board(logdir: str, port: int, log: Path) -> Iterator[Board]:
    """TensorBoard on what is in `logdir`; port 0 takes a free one. BadSpec where the port is taken.

    Its log is in a folder that is removed when the block is left, as are files of its own.
    """
    port = free_port(port)
    options = {"logdir": logdir, "host": HOST, "port": port, "load_fast": "false", "reload_interval": RELOAD_S}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tensorboard.main", *(f"--{name}={value}" for name, value in options.items())],
            # It leaves a file that tells of it, in the temporary folder, when it is killed.
            env=child_environ({"CUDA_VISIBLE_DEVICES": "-1", "TMPDIR": str(log.parent)}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield Board(process, port, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port(port: int) -> int:
    """The port, if nobody listens there; any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a page of the last one holds it for a minute
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise BadSpec.of("tensorboard.port", port, "only root may listen there", "tensorboard.port=6006") from error
        except OSError as error:
            raise _taken(port) from error
        return int(probe.getsockname()[1])


def _taken(port: int) -> BadSpec:
    law = f"something else listens on this port of {HOST}, perhaps another TensorBoard"
    return BadSpec.of("tensorboard.port", port, law, f"tensorboard.port={free_port(0)}, or 0 for any that is free")
