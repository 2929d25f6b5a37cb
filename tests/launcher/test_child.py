"""A child's two kinds, watched: started, told, ended. Real processes, no Ray, no TensorFlow."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import child as child_module
from launcher.messages import Order, Standby, WorkerStatus
from launcher.watch import Watch
from storage.run_dir import RunDir
from tests.launcher.conftest import HERE, lives


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Order]:
    def make(behaviour: str, **fields: object) -> Order:
        env = {"FAKE": behaviour, "FAKE_DIR": str(tmp_path), "PYTHONPATH": str(HERE), "CUDA_VISIBLE_DEVICES": "-1"}
        return Order("fake_worker", ("--job", "J"), str(tmp_path), "x", "attempts/01/rank_0.log", env, **fields)

    return make


def watch(order: Order, standby: Standby | None = None) -> Watch:
    return Watch(0, order, standby, RunDir(order.root_url, order.run_id))


def until(
    watched: Watch, is_so: Callable[[WorkerStatus], object], timeout_s: float = 20.0
) -> tuple[WorkerStatus, list]:
    """The first status that fits, and all events up to it."""
    events, deadline = [], time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = watched.poll(0.1)
        events += status.events
        if is_so(status):
            return status, events
    raise AssertionError(f"never: {status}")


def has_ended(status: WorkerStatus) -> bool:
    return status.ended


def test_a_child_tells_and_ends(order, tmp_path):
    status, events = until(watch(order("succeed")), has_ended)
    assert (status.exit_code, status.step, status.first_step) == (0, 10, 1)
    assert (status.result["metrics"], events[0]["event"]) == ({"test_accuracy": 0.9}, "hello")
    assert (tmp_path / "x/attempts/01/rank_0.log").read_text() == "argv --job J\n"


def test_a_refusal_keeps_its_words(order):
    status, _ = until(watch(order("refuse")), has_ended)
    assert (status.exit_code, status.error["message"]) == (78, "the batch does not fit")


def test_the_end_of_a_log_can_be_asked_for(order):
    watched = watch(order("user"))
    until(watched, has_ended)
    assert watched.tail(1) == ["Traceback: the last line of the log"]


def test_stop_is_passed_on(order):
    watched = watch(order("wait"))
    until(watched, lambda status: status.step)
    watched.send("stop")
    status, _ = until(watched, has_ended)
    assert (status.exit_code, status.progress["phase"]) == (75, "saving")


def test_kill_returns_when_the_child_is_gone(order):
    watched = watch(order("wait"))
    status, _ = until(watched, lambda status: status.step)
    watched.kill()
    assert not lives(status.pid)
    assert watched.poll(0).exit_code == -signal.SIGKILL


def test_a_child_that_is_killed_leaves_no_temporary_file(order, tmp_path, monkeypatch):
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    monkeypatch.setattr(tempfile, "tempdir", None)
    watched = watch(order("litter"))
    until(watched, lambda status: status.step)
    assert list(temp.rglob("generated*"))
    watched.kill()
    watched.close()
    assert list(temp.iterdir()) == []


def test_a_child_is_out_of_reach_of_the_terminal(order):
    watched = watch(order("wait"))
    status, _ = until(watched, lambda status: status.step)
    assert os.getsid(status.pid) == status.pid != os.getsid(0)
    watched.kill()


def test_silence_is_counted_from_the_last_line(order):
    watched = watch(order("hang"))
    status, _ = until(watched, lambda status: status.step == 5)
    status, _ = until(watched, lambda status: status.silent_s > 0.5)
    assert not status.ended
    watched.kill()


def test_a_child_dies_with_the_process_that_started_it(order, tmp_path):
    code = """
import sys, time
from launcher.messages import Order
from launcher.watch import Watch
from storage.run_dir import RunDir
from tests.launcher.conftest import HERE, lives
env = dict(FAKE='wait', FAKE_DIR=sys.argv[1], PYTHONPATH=sys.argv[2], CUDA_VISIBLE_DEVICES='-1')
watch = Watch(0, Order('fake_worker', (), sys.argv[1], 'x', 'log', env), None, RunDir(sys.argv[1], 'x'))
while not watch.poll(0.1).step: pass
print(watch.poll(0).pid, flush=True); time.sleep(60)
"""
    arguments = [sys.executable, "-c", code, str(tmp_path), str(HERE)]
    agent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1])
    with agent:
        pid = int(agent.stdout.readline())
        agent.kill()
    deadline = time.monotonic() + 5
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(pid)


class FakeServer(threading.Thread):
    """Speaks the standby server's protocol, and starts a fresh Python where the real one forks."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.standby = Standby(str(path), os.getpid())
        self.requests: list[dict] = []
        self.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        data, (control, progress, log), _, _ = socket.recv_fds(connection, 1 << 20, 3)
        request = json.loads(data)
        self.requests.append(request)
        fds = {"CONVOY_CONTROL_FD": str(control), "CONVOY_PROGRESS_FD": str(progress)}
        command = [sys.executable, str(HERE / "fake_worker.py"), *request["argv"]]
        environ = os.environ | request["env"] | fds
        child = subprocess.Popen(command, env=environ, stdout=log, pass_fds=(control, progress), cwd=request["cwd"])
        for fd in (control, progress, log):
            os.close(fd)
        with connection, child:
            connection.sendall(json.dumps({"pid": child.pid}).encode() + b"\n")
            connection.sendall(json.dumps({"exit": child.wait()}).encode() + b"\n")


def test_a_forked_child_is_like_a_cold_one(order, tmp_path):
    server = FakeServer(tmp_path / "socket")
    status, events = until(watch(order("succeed"), server.standby), has_ended)
    assert (status.exit_code, status.step, events[0]["event"]) == (0, 10, "hello")
    assert server.requests[0]["argv"] == ["--job", "J"]
    assert (tmp_path / "x/attempts/01/rank_0.log").read_text() == "argv --job J\n"
    server.listener.close()


def test_a_forked_child_is_told_and_killed(order, tmp_path):
    server = FakeServer(tmp_path / "socket")
    watched = watch(order("wait"), server.standby)
    status, _ = until(watched, lambda status: status.step)
    watched.kill()
    assert not lives(status.pid)
    assert watched.poll(0).exit_code == -signal.SIGKILL
    server.listener.close()


def test_without_its_standby_server_a_child_starts_cold_and_says_so(order, tmp_path):
    with subprocess.Popen(["true"]) as gone:
        pass
    status, events = until(watch(order("succeed"), Standby(str(tmp_path / "nothing"), gone.pid)), has_ended)
    assert status.exit_code == 0
    assert "standby_gone" in [event["event"] for event in events]


class FrozenServer(FakeServer):
    """Takes requests, and says nothing, or nothing any more."""

    def run(self) -> None:
        connection, _ = self.listener.accept()
        _, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        self.held = connection
        if self.child is not None:
            connection.sendall(json.dumps({"pid": self.child.pid}).encode() + b"\n")
        for fd in fds:
            os.close(fd)

    def __init__(self, path: Path, child: "subprocess.Popen[bytes] | None" = None):
        self.child = child
        super().__init__(path)


def test_a_standby_server_that_stands_still_is_not_waited_for(order, tmp_path, monkeypatch):
    monkeypatch.setattr(child_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(child_module, "LOOK_S", 0.05)
    server = FrozenServer(tmp_path / "socket")
    status, events = until(watch(order("succeed"), server.standby), has_ended)
    assert status.exit_code == 0
    assert ["it does not answer" in str(event["details"]) for event in events if event["event"] == "standby_gone"] == [
        True
    ]
    server.listener.close()


def test_the_end_of_a_child_is_seen_without_its_server(order, tmp_path, monkeypatch):
    monkeypatch.setattr(child_module, "LOOK_S", 0.05)
    with subprocess.Popen(["sleep", "600"]) as child:
        server = FrozenServer(tmp_path / "socket", child)
        watched = watch(order("wait"), server.standby)
        until(watched, lambda status: status.pid == child.pid)
        time.sleep(0.3)
        assert not watched.poll(0).ended
        watched.kill()  # nobody reaps it while its server stands still: it stays as a zombie
        status, _ = until(watched, has_ended)
        assert status.exit_code == -signal.SIGKILL
        server.held.close()
        server.listener.close()


FORKING = """
import os, signal, socket, sys, types
import trainer
trainer.worker = sys.modules["trainer.worker"] = types.ModuleType("trainer.worker")  # without TensorFlow
trainer.worker.run_and_exit = lambda argv: signal.pause()
from pathlib import Path
from trainer.standby import ForkServer
if sys.argv[2] == "cannot fork":
    def no_fork():
        os.fork = real
        raise BlockingIOError(11, "Resource temporarily unavailable")
    real, os.fork = os.fork, no_fork
ForkServer(Path(sys.argv[1])).serve()
"""


@pytest.mark.parametrize("trouble", ["an agent has gone", "cannot fork"])
def test_a_standby_server_outlives_trouble_with_one_child(tmp_path, trouble):
    """Its other children would die with it."""
    path = tmp_path / "socket"
    command = [sys.executable, "-c", FORKING, str(path), trouble]
    with subprocess.Popen(command, cwd=HERE.parents[1]) as server:
        try:
            while not path.exists():
                assert server.poll() is None
                time.sleep(0.01)
            request = json.dumps({"argv": [], "env": {}, "cwd": "/"}).encode() + b"\n"
            null = os.open(os.devnull, os.O_RDWR)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(str(path))
                if trouble == "an agent has gone":
                    server.send_signal(signal.SIGSTOP)  # so that it is gone before the answer
                socket.send_fds(first, [request], [null] * 3)
                if trouble == "cannot fork":
                    assert first.recv(100) == b""
            server.send_signal(signal.SIGCONT)
            with socket.socket(socket.AF_UNIX) as second:
                second.settimeout(20)
                second.connect(str(path))
                socket.send_fds(second, [request], [null] * 3)
                pid = json.loads(second.recv(100))["pid"]
                assert lives(pid)
            os.close(null)
            deadline = time.monotonic() + 20
            while lives(pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not lives(pid) and server.poll() is None
        finally:
            server.kill()


def test_waiting_for_a_standby_server_can_be_broken_off(order, tmp_path):
    watched = watch(order("succeed"), Standby(str(tmp_path / "not yet"), os.getpid()))
    begun = time.monotonic()
    watched.kill()
    assert watched.poll(0).exit_code == -signal.SIGKILL
    assert time.monotonic() - begun < 2


def test_a_child_that_holds_pythons_lock_says_in_its_log_where_it_waits(order, tmp_path):
    """As TensorFlow does while it waits for the other workers."""
    watched = watch(dataclasses.replace(order("wait"), module="native_worker"))
    until(watched, lambda status: status.events)
    watched.send("dump stacks")
    deadline = time.monotonic() + 20
    while "native_worker.py" not in (said := "\n".join(watched.tail(99))) and time.monotonic() < deadline:
        time.sleep(0.05)
    watched.kill()
    assert "(most recent call first)" in said and "native_worker.py" in said
    assert watched.poll(0).exit_code == -signal.SIGKILL
    watched.close()
