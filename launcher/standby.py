"""The standby server: a process that has imported TensorFlow already and forks the workers of one host.

The driver starts the one of its own host before Ray is imported, so that the two slow starts overlap. On other hosts
the first agent starts it. It dies with whoever started it.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from conf.schema import Accelerator, ClusterSpec
from conf.schema import Standby as Wanted
from launcher.child import ROOT, child_environ, die_with_parent
from launcher.folders import abandoned, sign
from launcher.messages import Standby

MODULE = "trainer.standby"
PREFIX = "convoy-standby-"
LOCK = "lock"
#: How long the agent that holds the lock may take to start the server's process.
STARTER_S = 20.0


def wants_standby(cluster: ClusterSpec, uses_gpus: bool) -> bool:
    """`auto` forks on CPUs alone: a GPU wants a process of its own from the start."""
    if cluster.standby is Wanted.auto:
        return not uses_gpus or cluster.accelerator is Accelerator.cpu
    return cluster.standby is Wanted.on


@contextlib.contextmanager
def standby_server(environ: Mapping[str, str], module: str = MODULE) -> Iterator[Standby]:
    """A server of this process's own, gone when the block is left."""
    sweep()
    folder, process = tempfile.mkdtemp(prefix=PREFIX), None
    try:
        sign(folder)
        process = start_server(f"{folder}/socket", f"{folder}/log", environ, module)
        yield Standby(f"{folder}/socket", process.pid)
    finally:
        if process is not None:
            stop_server(process)
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of drivers and agents that died before they could. Their servers died with them."""
    for folder in abandoned(PREFIX):
        with contextlib.suppress(OSError), open(folder / LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else another agent of the host is taking it over
            shutil.rmtree(folder, ignore_errors=True)


def start_server(socket: str, log: str, environ: Mapping[str, str], module: str = MODULE) -> "subprocess.Popen[bytes]":
    """Start `python -m trainer.standby --socket SOCKET`; it dies with this process."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, "--socket", socket],
            env=child_environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def stop_server(process: "subprocess.Popen[bytes]") -> None:
    """Kill the server and all that it forked."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


class HostStandby:
    """The one server of a host, whichever of its agents comes first starts it. The others wait for its socket."""

    def __init__(self, key: str):
        self._folder = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getuid()}-{key}"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def open(self, environ: Mapping[str, str]) -> Standby:
        """The host's server, started here if nobody else holds it."""
        sweep()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._folder} belongs to somebody else")
        pid_file = self._folder / "pid"
        socket = str(self._folder / "socket")
        deadline = time.monotonic() + STARTER_S
        while self._process is None or self._process.poll() is not None:
            self._become_starter(socket, pid_file, environ)
            if self._process is None and (pid := _read(pid_file)):
                return Standby(socket, int(pid))
            if time.monotonic() > deadline:
                raise TimeoutError(f"whoever holds {self._folder / LOCK} has started no standby server")
            time.sleep(0.02)
        return Standby(socket, self._process.pid)

    def _become_starter(self, socket: str, pid_file: Path, environ: Mapping[str, str]) -> None:
        if self._lock is None:
            self._lock = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        sign(self._folder)
        Path(socket).unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)
        self._process = start_server(socket, str(self._folder / "log"), environ)
        pid_file.write_text(str(self._process.pid))

    def close(self) -> None:
        """Stop the server if it is ours."""
        if self._process is not None:
            stop_server(self._process)
            shutil.rmtree(self._folder, ignore_errors=True)
