"""One driver a run: an object in the run directory that its owner renews. A dead owner's expires.

On the same host the process decides who is alive. Of another one its renewals tell, and whose clocks differ cannot
tell how old one is: who has been silent for too long is watched before he is taken for dead.

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
#: How long an owner on another host that seems to be silent is watched: a living one renews its lease in that time.
WATCH_S = 2.5 * RENEW_S
LOOK_S = 1.0


@dataclass(frozen=True)
class Owner:
    """Who drives a run."""

    nonce: str
    host: str
    pid: int
    born: str  # the process's start time, so that a pid used again is told apart
    renewed: float
    where: str = ""  # the running kernel and its processes: containers of different hosts may share a name


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
        self.is_lost = False  # another driver has taken the run over

    def __enter__(self) -> "Lease":
        self._take(LEASE)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rest()
        try:
            owner = read_owner(self._run_dir)
            if owner is not None and owner.nonce == self._nonce:
                self._run_dir.store.delete(LEASE)
        except StoreError as error:  # what was done is done
            logger.warning("the lease of run %s stays until it expires: %s", self._run_dir.run_id, error)

    def end_with(self, last: Callable[[], None]) -> None:
        """Do the last thing that is done with this run, such as to remove it, and renew no more."""
        self._rest()
        last()

    def _rest(self) -> None:
        self._stop.set()
        self._thread.join()

    def _take(self, name: str) -> None:
        """Make `name` ours: it is free, or its owner is dead and the claim on it is ours."""
        while not self._run_dir.store.put_if_absent(name, self._bytes()):
            owner = read_owner(self._run_dir, name)
            found = self._stale(name, owner)
            if found is None:
                continue  # its owner left in this moment
            with self._claimed(f"{name}.claim-{found}"):
                # Nobody was faster, and he is dead indeed; with the claim nobody can be faster any more.
                if read_owner(self._run_dir, name) == owner and self._run_dir.store.exists(name):
                    self._run_dir.store.put(name, self._bytes())
                    return

    def _stale(self, name: str, owner: Owner | None) -> str | None:
        """The nonce of a dead owner; None if `name` is free by now. Raises BadSpec when its owner lives."""
        if owner is None:
            return "unreadable" if self._run_dir.store.exists(name) else None
        alive = known(owner)
        if alive is None:
            is_elsewhere = owner.host != socket.gethostname()
            alive = (is_elsewhere and abs(time.time() - owner.renewed) < EXPIRES_S) or self._renews(name, owner)
        if alive:
            raise _taken(self._run_dir, owner)
        return owner.nonce

    def _renews(self, name: str, owner: Owner) -> bool:
        """Whether an owner that nobody has heard of for long renews its lease while it is watched."""
        law = "process %d on %s drove run %s and may be dead: waiting up to %.0f s for a sign of it"
        logger.warning(law, owner.pid, owner.host, self._run_dir.run_id, WATCH_S)
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(LOOK_S)
            now = read_owner(self._run_dir, name)
            if now is None or now.nonce != owner.nonce:
                return False  # he left, or another one was faster: who takes it now looks again
            if now.renewed != owner.renewed:
                return True
        return False

    @contextlib.contextmanager
    def _claimed(self, claim: str) -> Iterator[None]:
        self._take(claim)
        try:
            yield
        finally:
            self._run_dir.store.delete(claim)

    def _renew(self) -> None:
        renewed = time.clock_gettime(time.CLOCK_BOOTTIME)
        while not self._stop.wait(RENEW_S):
            try:
                owner, now = read_owner(self._run_dir), time.clock_gettime(time.CLOCK_BOOTTIME)
                is_gone = now - renewed >= EXPIRES_S and not self._run_dir.store.exists(LEASE)
                if is_gone or (owner is not None and owner.nonce != self._nonce):
                    self._lose(owner)
                    return
                self._run_dir.store.put(LEASE, self._bytes())
                renewed = now
            except StoreError:
                continue  # the next renewal may get through; until EXPIRES_S nothing is lost

    def _lose(self, owner: Owner | None) -> None:
        self.is_lost = True
        who = f"process {owner.pid} on {owner.host} drives it now" if owner else "another process drove it"
        law = "run %s: %s, which took over while this one was out of reach; stopping"
        logger.error(law, self._run_dir.run_id, who)
        self._stop_job()

    def _bytes(self) -> bytes:
        pid = os.getpid()
        owner = Owner(self._nonce, socket.gethostname(), pid, birth(pid), time.time(), here())
        return json.dumps(asdict(owner)).encode()


def read_owner(run_dir: RunDir, name: str = LEASE) -> Owner | None:
    """Who holds the lease of this run; None if nobody, or nobody that can be read."""
    try:
        fields: dict[str, Any] = json.loads(run_dir.store.get(name))
        return Owner(**fields)
    except (NotStored, ValueError, TypeError):
        return None


def known(owner: Owner) -> bool | None:
    """Whether an owner on this host is alive, which its process decides; None where that cannot be seen from here."""
    if owner.host != socket.gethostname() or owner.where not in ("", here()):
        return None
    return birth(owner.pid) == owner.born != ""


def is_alive(owner: Owner, now: float) -> bool:
    """On the same host its process decides, on another one the age of its last renewal."""
    alive = known(owner)
    return now - owner.renewed < EXPIRES_S if alive is None else alive


def here() -> str:
    """The running kernel, and the processes that can be seen in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


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
