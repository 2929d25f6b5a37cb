"""The agent: a Ray actor beside each worker that starts one child, watches it and stops it.

The child is tied to the agent twice: it dies with its parent (or its standby server), and the control pipe's
end-of-file tells it that the agent is gone.
"""

import hashlib
import os
import signal
import socket
import time

import ray

from conf.exit_codes import BAD_SPEC, FAILED
from launcher.installed import versions
from launcher.messages import AgentReport, Order, WorkerStatus
from launcher.standby import HostStandby
from launcher.watch import Watch
from storage.run_dir import RunDir
from storage.store import StoreAway, StoreError


class Agent:
    """Starts, watches and stops one child at a time."""

    def __init__(self, rank: int, hears_sigterm: bool = False):
        self._rank = rank
        self._is_leaving = False
        if hears_sigterm:  # as an actor: Ray would end the process at once, and the worker with it
            signal.signal(signal.SIGTERM, self._leave)
            # A Ray of our own is started with the signal blocked, and its processes inherit that.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._watch: Watch | None = None
        self._earlier: list[Watch] = []  # whose logs may still be on their way
        self._host_standby: HostStandby | None = None
        self._refused: dict[str, str] | None = None  # why no child was started

    def describe(self) -> AgentReport:
        """Who and where this agent is, and what is installed there. One that was told to leave goes now."""
        if self._is_leaving:
            self.close()
            os._exit(FAILED)
        gpus = tuple(name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name not in ("", "-1"))
        ip = ray.util.get_node_ip_address()
        cpus = len(os.sched_getaffinity(0))
        node = ray.get_runtime_context().get_node_id()
        return AgentReport(
            self._rank, socket.gethostname(), ip, free_port(ip), os.getpid(), cpus, gpus, versions(), node
        )

    def start(self, order: Order) -> None:
        """Begin to start a child. Returns at once; `poll` tells how it went."""
        if self._watch is not None:
            self._watch.kill()
            self._earlier.append(self._watch)
            for watch in [watch for watch in self._earlier if watch.is_over]:
                watch.close()
                self._earlier.remove(watch)
        self._watch, self._refused = None, unseen(order)
        if self._refused:
            return
        standby = order.standby
        if order.forked and standby is None:
            self._host_standby = self._host_standby or HostStandby(order.standby_key)
            standby = self._host_standby.open({})
        self._watch = Watch(self._rank, order, standby if order.forked else None, RunDir(order.root_url, order.run_id))

    def _leave(self, *_: object) -> None:
        """SIGTERM: the worker asks all others to save with it; the agent goes before the next attempt."""
        self._is_leaving = True
        if self._watch is None or self._watch.is_over:
            os._exit(FAILED)
        self._watch.send("stop")

    def poll(self, wait_s: float) -> WorkerStatus:
        """The child's status: at once when it ended or has an event to tell, else after `wait_s`."""
        if self._refused:
            code = BAD_SPEC if self._refused["error_kind"] == "bad_spec" else FAILED
            return WorkerStatus(self._rank, started=True, exit_code=code, exit_time=time.time(), error=self._refused)
        return self._watch.poll(wait_s) if self._watch else WorkerStatus(self._rank)

    def send(self, line: str) -> None:
        """Write a line into the child's control pipe."""
        if self._watch:
            self._watch.send(line)

    def kill(self) -> None:
        """SIGKILL to the child; returns when it is gone."""
        if self._watch:
            self._watch.kill()

    def tail(self, lines: int) -> list[str]:
        """The last lines of the child's log."""
        return self._watch.tail(lines) if self._watch else []

    def close(self) -> None:
        """Kill the child, upload its log, and stop the host's standby server if this agent started it."""
        if self._watch:
            self._watch.kill()
        for watch in [*self._earlier, *([self._watch] if self._watch else [])]:
            watch.close()
        if self._host_standby:
            self._host_standby.close()


def unseen(order: Order) -> dict[str, str] | None:
    """The error of a host that does not see the job as the driver wrote it; None if it does.

    A store that cannot be reached now is one that may be later: no reason never to try again.
    """
    if order.job is None:
        return None
    name, digest = order.job
    where = f"{order.root_url}/{order.run_id}/{name}"
    try:
        found = RunDir(order.root_url, order.run_id).store.get(name)
    except StoreAway as error:
        return {"error_kind": "infrastructure", "message": f"{socket.gethostname()}: {error}"}
    except StoreError as error:
        seen = f"{socket.gethostname()} does not see {where} ({error})"
    else:
        if hashlib.sha256(found).hexdigest() == digest:
            return None
        seen = f"{socket.gethostname()} sees another job than the driver wrote at {where}"
    message = f"storage.root={order.root_url} - {seen} - give a folder that all hosts share, or a bucket"
    return {"error_kind": "bad_spec", "message": message}


def free_port(ip: str) -> int:
    """A port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])
