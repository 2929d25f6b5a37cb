"""Processes that train together, seen from outside: their progress lines and their CPU seconds."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.peers.addresses import free_addresses
from benchmarks.report import REPOSITORY

TICKS = os.sysconf("SC_CLK_TCK")
TIMEOUT_S = 900
GRACE_S = 60


class Mark(NamedTuple):
    """When a step was reached, and what the processes had used by then."""

    step: int
    time_s: float
    cpu_s: float


def watch(command: list[str], count: int) -> list[Mark]:
    """Run `count` workers of one command to their end: a mark for each step that rank 0 told while training."""
    with tempfile.TemporaryFile("w+") as log:
        reading, writing = os.pipe()
        control, alive = os.pipe()
        processes = []
        addresses, cores = free_addresses(count), sorted(os.sched_getaffinity(0))
        try:
            for rank in range(count):
                progress = writing if rank == 0 else log.fileno()
                environment = _environment(progress, control, addresses, rank)
                os.sched_setaffinity(0, _share(cores, rank, count))
                processes.append(_start(command, environment, (progress, control), log.fileno()))
        finally:
            os.sched_setaffinity(0, cores)
            os.close(writing)
            os.close(control)
        deadline = threading.Timer(TIMEOUT_S, _kill, [processes])
        deadline.start()
        try:
            with os.fdopen(reading) as lines:
                marks = _read(lines, processes)
            codes = [_end(process) for process in processes]
        finally:
            deadline.cancel()
            os.close(alive)
            _kill(processes)
        if any(codes):
            log.seek(0)
            raise RuntimeError(f"exit codes {codes}: {log.read()[-600:]}")
        return marks


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


def _kill(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()


def _read(lines: Iterable[str], processes: list[subprocess.Popen]) -> list[Mark]:
    marks: list[Mark] = []
    for line in lines:
        said = json.loads(line)
        if said["kind"] == "error":
            raise RuntimeError(said.get("message"))
        moved = said.get("phase") == "training" and said["step"] > (marks[-1].step if marks else 0)
        if said["kind"] == "progress" and moved:
            marks.append(Mark(said["step"], time.perf_counter(), sum(map(_cpu_seconds, processes))))
    return marks


def _cpu_seconds(process: subprocess.Popen) -> float:
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _end(process: subprocess.Popen) -> int:
    """The exit code; killed after a while, since a worker whose peer has left may sit in a collective."""
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
