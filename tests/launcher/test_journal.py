"""What the driver tells of a run in a bucket: in order, and without waiting for it."""

import threading
import time
from pathlib import Path

import pytest

from launcher import journal as journal_module
from launcher.journal import STOP_REQUEST, Journal
from storage.run_dir import RunDir
from tests.storage.conftest import gcs_server, gcs_url, proxy  # noqa: F401
from tests.storage.fault_proxy import Fault, FaultProxy


def test_a_bucket_that_does_not_answer_does_not_hold_up_the_driver(proxy: FaultProxy, gcs_url: str) -> None:  # noqa: F811
    run = RunDir(gcs_url, "x")
    one, other = Journal(run), Journal(run)
    proxy.faults = [Fault("stall", "POST", "upload")]
    try:
        for number in range(6):
            (one if number % 2 else other).event("told", 1, None, number=number)
        assert not one.stop_requested()
        # None of these waited for the bucket, which has not answered the first of them yet.
        assert len(list(run.events())) <= 1
    finally:
        proxy.released.set()
    one.settle()
    assert [event["details"]["number"] for event in run.events()] == list(range(6))
    times = [event["time"] for event in run.events()]
    assert times == sorted(times)


def test_the_end_of_a_job_does_not_wait_for_ever_for_a_bucket(
    proxy: FaultProxy,  # noqa: F811
    gcs_url: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be written is said, and the events behind it are let go."""
    monkeypatch.setattr(journal_module, "_given_up", threading.Event())
    monkeypatch.setattr(journal_module, "SETTLE_S", 0.2)
    run = RunDir(gcs_url, "x")
    proxy.faults = [Fault("stall", "POST", "upload")]
    try:
        for number in range(6):
            Journal(run).event("told", 1, None, number=number)
        Journal(run).settle()
        Journal(run).settle()
    finally:
        proxy.released.set()
    assert caplog.text.count("the last events of the run are not written") == 1
    monkeypatch.setattr(journal_module, "SETTLE_S", 60.0)
    Journal(run).settle()
    assert [event["details"]["number"] for event in run.events()] == [0], "the one that was under way"


def test_a_stop_request_in_a_bucket_is_seen_and_taken_away_once(proxy: FaultProxy, gcs_url: str) -> None:  # noqa: F811
    run = RunDir(gcs_url, "x")
    journal = Journal(run)
    run.write_json(STOP_REQUEST, {})
    deadline = time.monotonic() + 30
    while not journal.stop_requested():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not run.store.exists(STOP_REQUEST) and not journal.stop_requested()
    run.write_json(STOP_REQUEST, {})
    journal.forget_stop()
    assert not run.store.exists(STOP_REQUEST)


def test_who_only_does_something_with_a_run_leaves_the_stop_to_its_driver(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path), "x")
    run.write_json(STOP_REQUEST, {})
    assert not Journal(run, "evaluate", hears_stop=False).stop_requested()
    assert Journal(run).stop_requested()
    Journal(run, "evaluate", hears_stop=False).event("restored", 2, 0, step=5)
    Journal(run).event("restored", 1, 0, step=5)
    assert [event.get("task") for event in run.events()] == ["evaluate", None]


def test_the_outcome_is_the_last_that_is_told(proxy: FaultProxy, gcs_url: str) -> None:  # noqa: F811
    run = RunDir(gcs_url, "x")
    journal = Journal(run)
    proxy.faults = [Fault("status", "POST", "upload", uses=3)]
    journal.event("attempt_ended", 1, None)
    journal.outcome("succeeded", 1, 10, "done")
    assert [event["kind"] for event in run.events()] == ["attempt_ended", "succeeded"]


def test_each_attempt_has_a_number_of_its_own(tmp_path: Path) -> None:
    """A training and tasks beside it take theirs at the same time; none is taken twice, and none that was there."""
    run = RunDir(str(tmp_path), "x")
    run.write_json("attempts/02/taken_by.json", {})
    gate, taken = threading.Barrier(8), []

    def take(task: str | None) -> None:
        journal = Journal(RunDir(str(tmp_path), "x"), task)
        gate.wait()
        number = 0
        for _ in range(5):
            number = journal.attempt_after(number)
            taken.append((number, task or "train"))

    threads = [threading.Thread(target=take, args=(task,)) for task in ["evaluate", None] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in taken) == [1, *range(3, 42)]
    assert {(number, run.read_json(f"attempts/{number:02d}/taken_by.json")["task"]) for number, _ in taken} == set(
        taken
    )
