"""One driver a run: an object in the run directory that its owner renews. A dead owner's expires.

To replace a dead owner's object is a right that one driver has at a time: who holds the claim on it, an object of its
own whose name holds the dead one's nonce. A claim is held like the lease, so a claim whose owner died is claimed too.
"""

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.errors import BadSpec
from storage.run_dir import RunDir
from storage.store import NotStored, StoreError

logger = logging.getLogger(__name__)
LEASE = "driver.lease"
RENEW_S = 10.0
EXPIRES_S = 60.0


@dataclass(frozen=True)
class Owner:
    """Who drives a run."""

    nonce: str
    host: str
    pid: int
    born: str  # the process's start time, so that a pid used again is told apart
    renewed: float


def stop_this_process() -> None:
    """End this process's job as SIGTERM does."""
    os.kill(os.getpid(), signal.SIGTERM)


class Lease:
    """Held while driving. Use as a context manager; refuses when another driver is alive.

    `stop` is called from a thread when another driver has taken the run over while this one was out of reach.
    """

    def __init__(self, run_dir: RunDir, stop: Callable[[], None] = stop_this_process):
        self._run_dir = run_dir
        self._stop_job = stop
        self._nonce = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._take(LEASE)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        owner = read_owner(self._run_dir)
        if owner is not None and owner.nonce == self._nonce:
            self._run_dir.store.delete(LEASE)

    def _take(self, name: str) -> None:
        """Make `name` ours: it is free, or its owner is dead and the claim on it is ours."""
        while not self._run_dir.store.put_if_absent(name, self._bytes()):
            found = self._stale(name)
            if found is None:
                continue  # its owner left in this moment
            with self._claimed(f"{name}.claim-{found}"):
                if self._stale(name) == found:  # nobody was faster; with the claim nobody can be any more
                    self._run_dir.store.put(name, self._bytes())
                    return

    def _stale(self, name: str) -> str | None:
        """The nonce of a dead owner; None if `name` is free by now. Raises BadSpec when its owner lives."""
        owner = read_owner(self._run_dir, name)
        if owner is None:
            return "unreadable" if self._run_dir.store.exists(name) else None
        if is_alive(owner, time.time()):
            raise _taken(self._run_dir, owner)
        return owner.nonce

    @contextlib.contextmanager
    def _claimed(self, claim: str) -> Iterator[None]:
        self._take(claim)
        try:
            yield
        finally:
            self._run_dir.store.delete(claim)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                owner = read_owner(self._run_dir)
                if owner is not None and owner.nonce != self._nonce:
                    law = "process %d on %s drives run %s now: it took over while this one was out of reach; stopping"
                    logger.error(law, owner.pid, owner.host, self._run_dir.run_id)
                    self._stop_job()
                    return
                self._run_dir.store.put(LEASE, self._bytes())
            except StoreError:
                continue  # the next renewal may get through; until EXPIRES_S nothing is lost

    def _bytes(self) -> bytes:
        pid = os.getpid()
        return json.dumps(asdict(Owner(self._nonce, socket.gethostname(), pid, birth(pid), time.time()))).encode()


def read_owner(run_dir: RunDir, name: str = LEASE) -> Owner | None:
    """Who holds the lease of this run; None if nobody, or nobody that can be read."""
    try:
        fields: dict[str, Any] = json.loads(run_dir.store.get(name))
        return Owner(**fields)
    except (NotStored, ValueError, TypeError):
        return None


def is_alive(owner: Owner, now: float) -> bool:
    """On the same host its process decides, on another one the age of its last renewal."""
    if owner.host == socket.gethostname():
        return birth(owner.pid) == owner.born != ""
    return now - owner.renewed < EXPIRES_S


def birth(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty if there is none, or a dead one that nobody reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return ""


def _taken(run_dir: RunDir, owner: Owner) -> BadSpec:
    law = f"process {owner.pid} on {owner.host} is driving this run"
    cure = f"wait for it, stop it (job=stop run_id={run_dir.run_id}), or choose another run_id"
    return BadSpec.of("run_id", run_dir.run_id, law, cure)
