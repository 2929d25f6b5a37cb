"""One driver a run: an object in the run directory that its owner renews. A dead owner's expires."""

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.errors import BadSpec
from storage.run_dir import RunDir
from storage.store import NotStored, StoreError

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


class Lease:
    """Held while driving. Use as a context manager; refuses when another driver is alive."""

    def __init__(self, run_dir: RunDir):
        self._run_dir = run_dir
        self._nonce = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        if not self._run_dir.store.put_if_absent(LEASE, self._bytes()):
            owner = read_owner(self._run_dir)
            if owner is not None and is_alive(owner, time.time()):
                raise _taken(self._run_dir, owner)
            self._run_dir.store.put(LEASE, self._bytes())
            owner = read_owner(self._run_dir)
            if owner is not None and owner.nonce != self._nonce:
                raise _taken(self._run_dir, owner)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        owner = read_owner(self._run_dir)
        if owner is not None and owner.nonce == self._nonce:
            self._run_dir.store.delete(LEASE)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                self._run_dir.store.put(LEASE, self._bytes())
            except StoreError:
                continue  # the next renewal may get through; until EXPIRES_S nothing is lost

    def _bytes(self) -> bytes:
        pid = os.getpid()
        return json.dumps(asdict(Owner(self._nonce, socket.gethostname(), pid, birth(pid), time.time()))).encode()


def read_owner(run_dir: RunDir) -> Owner | None:
    """Who holds the lease of this run; None if nobody, or nobody that can be read."""
    try:
        fields: dict[str, Any] = json.loads(run_dir.store.get(LEASE))
        return Owner(**fields)
    except (NotStored, ValueError, TypeError):
        return None


def is_alive(owner: Owner, now: float) -> bool:
    """On the same host its process decides, on another one the age of its last renewal."""
    if owner.host == socket.gethostname():
        return birth(owner.pid) == owner.born != ""
    return now - owner.renewed < EXPIRES_S


def birth(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _taken(run_dir: RunDir, owner: Owner) -> BadSpec:
    law = f"process {owner.pid} on {owner.host} is driving this run"
    cure = f"wait for it, stop it (job=stop run_id={run_dir.run_id}), or choose another run_id"
    return BadSpec.of("run_id", run_dir.run_id, law, cure)
