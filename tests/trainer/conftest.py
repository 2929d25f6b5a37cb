"""Four logical CPU devices, for MirroredStrategy in one process; weights from several worker processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf  # noqa: E402 - the environment comes first

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


@pytest.fixture(scope="session")
def mirrored():
    """Strategies over 1, 2 and 4 replicas, by number."""
    strategies = {1: tf.distribute.get_strategy()}
    for number in (2, 4):
        strategies[number] = tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(number)])
    return strategies


@pytest.fixture(scope="session")
def workers(tmp_path_factory):
    """Run every case of arithmetic.py on N worker processes, once; gives each rank's weights."""
    found = {}

    def run(number: int) -> list[dict[str, np.ndarray]]:
        if number not in found:
            found[number] = run_workers(number, tmp_path_factory.mktemp(f"workers{number}"))
        return found[number]

    return run


def run_workers(number: int, folder: Path) -> list[dict[str, np.ndarray]]:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
    processes = []
    for rank in range(number):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        command = [sys.executable, "-m", "tests.trainer.arithmetic", str(folder / "weights")]
        log = (folder / f"{rank}.log").open("w")
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    codes = [process.wait(timeout=240) for process in processes]
    assert codes == [0] * number, (folder / "0.log").read_text()[-3000:]
    return [dict(np.load(folder / f"weights.{rank}.npz")) for rank in range(number)]


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
