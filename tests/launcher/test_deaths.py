"""Whatever dies or stands still around the workers: no hang, no orphan, and the same command goes on.

The workers are fake, everything round them is real. Real workers: tests/end_to_end/test_deaths.py.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launcher.conftest import living
from tests.launcher.test_driver import Command, eventually

#: Words on the command line of each process that may be hit.
VICTIMS = {"head": "/gcs/gcs_server", "raylet": "/raylet/raylet", "agent": "ray::Agent"}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for process in living(str(tmp_path)):
        process.kill()
    subprocess.run(["rm", "-rf", str(command.temp)], check=True)


def events(command: Command, kind: str) -> list[dict]:
    lines = (command.folder / "runs/x/events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def victim(command: Command, name: str) -> psutil.Process:
    """The process of this name among those of the command."""
    found = [process for process in living(str(command.folder)) if VICTIMS[name] in " ".join(process.cmdline())]
    return found[-1]


def under_way(command: Command, *words: str) -> "subprocess.Popen[str]":
    process = command.start("wait", *words)
    assert eventually((command.folder / "seen_1").exists, 60)
    return process


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        ("head", signal.SIGKILL, "Ray's head (gcs_server) died"),
        ("raylet", signal.SIGSTOP, "Ray's raylet stands still"),
    ],
)
def test_workers_save_when_ray_itself_is_lost_and_the_same_command_goes_on(command, name, number, said):
    process = under_way(command)
    os.kill(victim(command, name).pid, number)
    told, _ = process.communicate(timeout=60)  # Ray alone would take more than a minute, and save nothing
    assert (process.returncode, said in told, "go on with:" in told) == (75, True, True), told
    outcome = command.outcome()
    assert (outcome["state"], outcome["step"] > 0) == ("stopped", True)
    assert command.left() == ([], [])
    assert command.run("succeed")[0] == 0


def test_a_host_that_dies_takes_its_workers_along_and_nothing_is_left(command):
    """With a Ray of our own the raylet is the only host there is."""
    process = under_way(command)
    os.kill(victim(command, "raylet").pid, signal.SIGKILL)
    told, _ = process.communicate(timeout=100)
    assert (process.returncode, "Ray's raylet died" in told) == (75, True), told
    assert command.left() == ([], [])
    assert command.run("succeed")[0] == 0


def test_an_agent_that_stands_still_counts_as_silence_and_is_replaced(command):
    process = under_way(command, "cluster.hang_timeout_s=3", "cluster.start_timeout_s=20")
    frozen = victim(command, "agent").pid
    os.kill(frozen, signal.SIGSTOP)
    assert eventually(lambda: len(events(command, "attempt_started")) == 2, 60), command.outcome()
    assert events(command, "hang")[0]["details"]["silent_s"] > 3
    assert not psutil.pid_exists(frozen)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert (process.returncode, "no sign from rank" in told) == (75, True), told
    assert command.left() == ([], [])


def test_a_driver_that_stood_still_does_not_take_its_own_silence_for_the_workers(command):
    process = under_way(command, "cluster.hang_timeout_s=3")
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)  # twice what it allows the workers
    process.send_signal(signal.SIGCONT)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, events(command, "hang"), command.outcome()["attempts"]) == (75, [], 1)
    assert command.left() == ([], [])
