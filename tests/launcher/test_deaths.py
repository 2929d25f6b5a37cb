"""Whatever dies or stands still around the workers: no hang, no orphan, and the same command goes on.

The workers are fake, everything round them is real. Real workers, and hosts: `make deaths`, `make chaos`.
"""

import json
import os
import signal
import subprocess
import time

import psutil

from tests.launcher.conftest import living
from tests.launcher.test_driver import Command, command, eventually

__all__ = ["command"]

#: Words on the command line of each process that may be hit.
VICTIMS = {"head": "/gcs/gcs_server", "raylet": "/raylet/raylet", "agent": "ray::Agent"}


def events(command: Command, kind: str) -> list[dict]:
    lines = (command.folder / "runs/x/events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def victim(command: Command, name: str) -> psutil.Process:
    """The process of this name among those of the command."""
    found = [process for process in living(str(command.folder)) if VICTIMS[name] in " ".join(process.cmdline())]
    return found[-1]


def assert_saved_and_goes_on(command: Command, name: str, number: signal.Signals, said: str) -> None:
    """Hit a server of Ray: the workers save. Ray alone would take more than a minute, and save nothing."""
    process = under_way(command)
    os.kill(victim(command, name).pid, number)
    told, _ = process.communicate(timeout=60)
    assert (process.returncode, said in told, "go on with:" in told) == (75, True, True), told
    outcome = command.outcome()
    assert (outcome["state"], outcome["step"] > 0) == ("stopped", True)
    assert command.left() == ([], [])
    assert command.run("succeed")[0] == 0


def under_way(command: Command, *words: str) -> "subprocess.Popen[str]":
    process = command.start("wait", *words)
    assert eventually((command.folder / "seen_1").exists, 60)
    return process


def test_workers_save_when_rays_head_dies_and_the_same_command_goes_on(command):
    assert_saved_and_goes_on(command, "head", signal.SIGKILL, "Ray's head (gcs_server) died")


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
