"""Weights from groups of replicas, each group in processes of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUPS = (("mirrored", 2), ("mirrored", 4), ("workers", 2), ("workers", 4))


@pytest.fixture(scope="session")
def groups(tmp_path_factory):
    """Each group's weights after every case of replicas.py: a dictionary for each replica. All groups run at once."""
    running = {group: start(group, tmp_path_factory.mktemp("-".join(map(str, group)))) for group in GROUPS}
    return {group: finish(group, *started) for group, started in running.items()}


def start(group: tuple[str, int], folder: Path) -> tuple[list[subprocess.Popen], Path]:
    kind, number = group
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    processes = []
    for rank in range(number if kind == "workers" else 1):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"} | (
            {"TF_CONFIG": json.dumps(config)} if kind == "workers" else {}
        )
        command = [sys.executable, "-m", "tests.trainer.replicas", str(folder), kind, str(number)]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return processes, folder


def finish(group: tuple[str, int], processes: list[subprocess.Popen], folder: Path) -> list[dict[str, np.ndarray]]:
    codes = [process.wait(timeout=560) for process in processes]
    assert not any(codes), f"{group}: {(folder / '0.log').read_text()[-3000:]}"
    return [dict(np.load(folder / f"{replica}.npz")) for replica in range(group[1])]


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
