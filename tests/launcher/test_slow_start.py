"""A Ray of our own that does not come up on a machine with too much to do: tried once more, then said in a sentence."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.gate import NoRay, prepare_own_ray
from tests.launcher.conftest import lives


def test_a_ray_that_is_too_slow_is_tried_twice_and_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_own_ray()
    connect = importlib.import_module("launcher.connect")
    tries = []

    def timed_out(**_: object) -> None:
        tries.append(1)
        raise Exception("The current node timed out during startup. This could happen because")  # as Ray's node.py does

    monkeypatch.setattr(connect.ray, "init", timed_out)
    with pytest.raises(NoRay, match="tried 2 times: The current node timed out"), connect.own_ray(1, 0, print):
        pass
    assert len(tries) == 2


WAITS_FOR_EVER = """
import sys, subprocess, threading
from launcher.gate import prepare_own_ray
prepare_own_ray()
from launcher import connect
connect.START_S = 1.0
def init(_temp_dir, **_):
    # As a server of Ray's would be, by its command line.
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", _temp_dir])
    print(server.pid, _temp_dir, flush=True)
    threading.Event().wait()
connect.ray.init = init
with connect.own_ray(1, 0, print):
    pass
"""


def test_a_ray_whose_start_never_ends_is_given_up_and_nothing_of_it_is_left(repository: Path) -> None:
    command = [sys.executable, "-c", WAITS_FOR_EVER]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "Ray did not start on this machine within 1 s - free some of its cores" in done.stderr
    pid, folder = done.stdout.split()
    assert not lives(int(pid)) and not Path(folder).exists()
