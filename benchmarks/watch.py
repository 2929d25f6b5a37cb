"""Processes that train, seen from outside: their progress lines and their CPU seconds."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.peers.addresses import free_addresses
from benchmarks.report import REPOSITORY

TICKS = os.sysconf("SC_CLK_TCK")
TIMEOUT_S = 300


class Mark(NamedTuple):
    """When a step was reached, and what the processes had used by then."""

    step: int
    time_s: float
    cpu_s: float
    gauge: float = 0.0  # what else was looked at


class Side:
    """The workers of one command, which train for ever and can be held still.

    Sides that take turns of seconds see the same machine; runs of minutes, one after the other, see another one each.
    """

    def __init__(self, command: list[str], count: int, gauge: Callable[[set[int]], float] | None = None):
        """`gauge` looks at the processes' ids, at each mark."""
        self._gauge = gauge or (lambda _: 0.0)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the side lives
        reading, writing = os.pipe()
        control, self._alive = os.pipe()
        self._processes: list[subprocess.Popen] = []
        self._marks: queue.Queue[Mark | str] = queue.Queue()
        addresses, cores = free_addresses(count), sorted(os.sched_getaffinity(0))
        try:
            for rank in range(count):
                progress = writing if rank == 0 else self._log.fileno()
                environment = _environment(progress, control, addresses, rank)
                os.sched_setaffinity(0, _share(cores, rank, count))
                self._processes.append(_start(command, environment, (progress, control), self._log.fileno()))
        finally:
            os.sched_setaffinity(0, cores)
            os.close(writing)
            os.close(control)
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def warm_up(self, step: int) -> None:
        """Let it compile and come to `step`. It goes on: workers that are held still for long lose one another."""
        while self._next().step < step:
            pass

    def hold(self) -> None:
        """Hold it still until its turn."""
        self._signal(signal.SIGSTOP)

    def turn(self, steps: int) -> tuple[Mark, Mark]:
        """Let it go on for a loop that does not count and then for `steps` steps: where those began and ended."""
        while not self._marks.empty():
            self._marks.get()
        self._signal(signal.SIGCONT)
        first = last = self._next()
        while last.step < first.step + steps:
            last = self._next()
        self.hold()
        return first, last

    def peak_bytes(self) -> float:
        """The most memory that its processes have had, each at its own peak."""
        return sum(map(_peak_bytes, self._processes))

    def end(self) -> None:
        """Kill it."""
        for process in self._processes:
            process.kill()
            process.wait()
        os.close(self._alive)
        self._log.close()

    def _next(self) -> Mark:
        try:
            said = self._marks.get(timeout=TIMEOUT_S)
        except queue.Empty:
            said = f"nothing was said for {TIMEOUT_S} s"
        if isinstance(said, Mark):
            return said
        self._log.seek(0)
        raise RuntimeError(f"{said}: {self._log.read()[-600:]}")

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)

    def _read(self, reading: int) -> None:
        """A mark for each step that rank 0 told while training; a text when it ends."""
        step = 0
        with os.fdopen(reading) as lines:
            for line in lines:
                said = json.loads(line)
                if said["kind"] == "progress" and said.get("phase") == "training" and said["step"] > step:
                    step = said["step"]
                    used = sum(map(_cpu_seconds, self._processes))
                    gauge = self._gauge({process.pid for process in self._processes})
                    self._marks.put(Mark(step, time.perf_counter(), used, gauge))
        self._marks.put("it ended")


def _environment(progress: int, control: int, addresses: list[str], rank: int) -> dict[str, str]:
    descriptors = {"CONVOY_PROGRESS_FD": str(progress), "CONVOY_CONTROL_FD": str(control)}
    quiet = {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    together = {}
    if len(addresses) > 1:
        task = {"type": "worker", "index": rank}
        together["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    return {**os.environ, **descriptors, **quiet, **together}


def _share(cores: list[int], rank: int, count: int) -> list[int]:
    """An equal part of the cores for each worker; all of them where there are too few."""
    each = len(cores) // count
    return cores[rank * each : (rank + 1) * each] if each else cores


def _start(command: list[str], environment: dict[str, str], keep: tuple[int, int], log: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=environment,
        pass_fds=keep,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


def _peak_bytes(process: subprocess.Popen) -> float:
    with open(f"/proc/{process.pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return 1024 * float(line.split()[1])


def _cpu_seconds(process: subprocess.Popen) -> float:
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
