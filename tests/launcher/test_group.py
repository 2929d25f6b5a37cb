"""Agents and controller over a real Ray on loopback, with fake workers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from conf.schema import Accelerator, ClusterSpec
from launcher import controller as controller_module
from launcher.console import Console
from launcher.controller import Controller, Outcome
from launcher.gate import connected, grouped
from launcher.interrupts import Interrupts
from launcher.journal import STOP_REQUEST, Journal
from launcher.messages import AgentReport, Order
from launcher.placement import Placement
from launcher.rendezvous import Absent, worker_environs
from storage.run_dir import RunDir, log_name
from tests.launcher.conftest import HERE, lives

CLUSTER = ClusterSpec(workers=2, accelerator=Accelerator.cpu, hang_timeout_s=1.5, start_timeout_s=30, grace_s=10)


@pytest.fixture(scope="module")
def placement() -> Iterator[Placement]:
    with connected(CLUSTER) as placement:
        yield placement


@pytest.fixture(scope="module")
def gang(placement: Placement) -> Iterator[object]:
    with grouped(placement, 30) as group:
        yield group


class Job:
    """Two fake workers over the module's agents."""

    def __init__(self, gang: object, placement: Placement, folder: Path):
        self.gang, self.placement, self.folder = gang, placement, folder
        self.run_dir = RunDir(str(folder), "x")
        self.interrupts = Interrupts()

    def run(self, behaviour: str, **cluster: object) -> Outcome:
        def planner(attempt: int, reports: Sequence[AgentReport]) -> list[Order]:
            said = {"FAKE": behaviour, "FAKE_DIR": str(self.folder), "PYTHONPATH": str(HERE)}
            environs = worker_environs(reports, self.placement)
            names = [log_name(attempt, rank) for rank in range(len(reports))]
            root = str(self.folder)
            return [Order("fake_worker", (), root, "x", name, said | env) for name, env in zip(names, environs)]

        spec = ClusterSpec(**(vars(CLUSTER) | cluster))
        return Controller(spec, self.gang, planner, Journal(self.run_dir), Console(), self.interrupts).run(1)

    def events(self, kind: str) -> list[dict]:
        return [event for event in self.run_dir.events() if event["kind"] == kind]


@pytest.fixture
def job(gang: object, placement: Placement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(controller_module, "STACKS_S", 0.5)
    return Job(gang, placement, tmp_path)


def test_two_workers_know_one_another_and_succeed(job):
    found = job.run("succeed")
    assert (found.state, found.attempts, found.step) == ("succeeded", 1, 10)
    told = {event["rank"]: event["details"]["tf_config"] for event in job.events("hello")}
    assert '"index": 0' in told[0] and '"index": 1' in told[1]
    assert told[0].count("127.0.0.1:") == 2
    assert {event["details"]["gpus"] for event in job.events("hello")} == {"-1"}


def test_a_refusal_is_not_retried(job):
    found = job.run("refuse")
    assert (found.state, found.attempts, found.exit_code) == ("failed", 1, 78)


def test_a_users_bug_is_shown_with_its_log_and_not_retried(job):
    found = job.run("user")
    assert (found.state, found.attempts, found.exit_code) == ("failed", 1, 1)
    assert "ValueError: a bug" in found.reason
    assert found.log_tail[-1] == "Traceback: the last line of the log"


def test_a_killed_worker_is_seen_at_once_and_all_are_started_again(job):
    found = job.run("die")
    assert (found.state, found.attempts) == ("succeeded", 2)
    assert job.events("restart")[0]["details"]["reason"] == "rank 1: killed by signal 9"
    assert len(list(job.folder.glob("x/attempts/0[12]/rank_[01].log"))) == 4


def test_a_hang_is_found_its_stacks_are_dumped_and_it_is_started_again(job):
    found = job.run("hang")
    assert (found.state, found.attempts) == ("succeeded", 2)
    assert job.events("hang")[0]["details"]["ranks"]
    assert len(list(job.folder.glob("stacks_*"))) == 2


def test_a_stop_request_saves_and_stops(job):
    job.run_dir.write_json(STOP_REQUEST, {})
    found = job.run("wait")
    assert (found.state, found.exit_code, found.attempts) == ("stopped", 75, 1)


def when(is_so: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Do something in another thread as soon as a condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not is_so() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_dead_agent_is_replaced_and_its_worker_goes_with_it(job, capfd):
    pid = job.gang.gather()[1].pid
    killer = when((job.folder / "seen_1").exists, lambda: os.kill(pid, signal.SIGKILL))
    stopper = when(lambda: job.events("restart"), lambda: job.run_dir.write_json(STOP_REQUEST, {}))
    found = job.run("wait")
    assert "raylet" not in capfd.readouterr().out  # nobody but us talks to the person
    killer.join()
    stopper.join()
    assert (found.state, found.attempts) == ("stopped", 2)
    assert "agent died" in job.events("restart")[0]["details"]["reason"]
    assert job.gang.gather()[1].pid != pid
    orphan = int((job.folder / "seen_1").read_text())
    assert not lives(orphan)


def test_an_agent_that_is_told_to_leave_lets_all_save_and_is_replaced(job):
    pid = job.gang.gather()[1].pid
    teller = when((job.folder / "seen_1").exists, lambda: os.kill(pid, signal.SIGTERM))
    stopper = when(lambda: job.events("restart"), lambda: job.run_dir.write_json(STOP_REQUEST, {}))
    found = job.run("wait", max_restarts=0)
    teller.join()
    stopper.join()
    assert (found.state, found.attempts) == ("stopped", 2)
    ended, restart = job.events("attempt_ended")[0]["details"], job.events("restart")[0]["details"]
    assert (ended["kind"], restart["counted"]) == ("preempted", False)
    assert "rank 1 was told to leave (SIGTERM)" in restart["reason"]
    assert job.gang.gather()[1].pid != pid and not lives(pid)


def test_an_absent_worker_is_named_with_the_reason(gang, placement):
    with grouped(Placement(3, 1000.0, 0, 1, 1), start_timeout_s=1) as impossible, pytest.raises(Absent) as absent:
        impossible.gather()
    assert "3 of 3 workers did not report within 1 s - ranks 0, 1, 2: Ray has no host" in str(absent.value)
