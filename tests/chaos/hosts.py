"""`make chaos`: a host that dies, or stands still. With a Ray of our own its raylet is the only host there is."""

import os
import signal

import pytest

from tests.launcher.conftest import fakes_are_found
from tests.launcher.test_deaths import assert_saved_and_goes_on, command, under_way, victim

__all__ = ["command", "fakes_are_found"]


@pytest.mark.parametrize("name", ["raylet", "head"])
def test_workers_save_when_a_server_of_ray_stands_still(command, name):
    said = {"raylet": "Ray's raylet stands still", "head": "Ray's head (gcs_server) stands still"}[name]
    assert_saved_and_goes_on(command, name, signal.SIGSTOP, said)


def test_a_host_that_dies_takes_its_workers_along_and_nothing_is_left(command):
    process = under_way(command)
    os.kill(victim(command, "raylet").pid, signal.SIGKILL)
    told, _ = process.communicate(timeout=100)
    assert (process.returncode, "Ray's raylet died" in told) == (75, True), told
    assert command.left() == ([], [])
    assert command.run("succeed")[0] == 0
