"""The lease: who may drive a run, and what happens when two want to."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from conf.errors import BadSpec
from launcher import lease as lease_module
from launcher.compose import compose
from launcher.journal import STOP_REQUEST
from launcher.lease import LEASE, Lease, Owner, birth, read_owner
from launcher.saved import freeze
from launcher.verbs import stop
from storage.run_dir import RunDir
from storage.store import StoreError

DEAD = Owner("dead", os.uname().nodename, os.getpid(), "not when this process was born", 0.0)


def abandoned(folder: Path, name: str = LEASE) -> RunDir:
    """A run whose driver died."""
    run_dir = RunDir(str(folder), "x")
    run_dir.store.put(name, json.dumps(dataclasses.asdict(DEAD)).encode())
    return run_dir


def test_of_two_drivers_one_takes_a_dead_ones_lease_over(tmp_path, monkeypatch):
    run_dir, second = abandoned(tmp_path), Lease(RunDir(str(tmp_path), "x"))
    known = lease_module.known

    def slow(owner: Owner) -> bool | None:
        monkeypatch.setattr(lease_module, "known", known)
        second.__enter__()  # while the first one still thinks about the dead owner
        return known(owner)

    monkeypatch.setattr(lease_module, "known", slow)
    with pytest.raises(BadSpec, match="is driving this run"), Lease(run_dir):
        pass
    second.__exit__()
    assert list(run_dir.store.list()) == []


def test_of_many_drivers_at_once_one_drives(tmp_path):
    for number in range(10):
        run_dir, taken, gate = abandoned(tmp_path / str(number)), [], threading.Barrier(6)

        def drive(run_dir: RunDir = run_dir, taken: list = taken, gate: threading.Barrier = gate) -> None:
            lease = Lease(run_dir)
            gate.wait()
            with contextlib.suppress(BadSpec):
                taken.append(lease.__enter__())

        threads = [threading.Thread(target=drive) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        for lease in taken:
            lease.__exit__()
        assert list(run_dir.store.list()) == []


def test_a_driver_that_died_while_it_took_over_is_taken_over_too(tmp_path):
    run_dir = abandoned(tmp_path)
    abandoned(tmp_path, f"{LEASE}.claim-dead")
    with Lease(run_dir):
        assert read_owner(run_dir).born != DEAD.born
    assert list(run_dir.store.list()) == []


def test_an_unreadable_lease_is_nobodys(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    run_dir.store.put(LEASE, b"{")
    with Lease(run_dir):
        assert read_owner(run_dir).pid == os.getpid()


def test_a_driver_whose_lease_was_taken_stops_its_job_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    run_dir, stopped = RunDir(str(tmp_path), "x"), threading.Event()
    with Lease(run_dir, stopped.set):
        time.sleep(0.05)
        assert not stopped.is_set()
        deadline = time.monotonic() + 30
        while not stopped.wait(0.1):  # a renewal that is on its way goes over it once
            assert time.monotonic() < deadline
            abandoned(tmp_path)
    assert "run x: process" in caplog.text and "drives it now" in caplog.text
    assert read_owner(run_dir) == DEAD  # a foreign lease is left alone


def test_a_driver_that_comes_back_when_all_is_done_does_not_begin_again(tmp_path, monkeypatch, caplog):
    """It stood still, another one took the run over, finished and left: there is no lease any more."""
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    run_dir, stopped = RunDir(str(tmp_path), "x"), threading.Event()
    with Lease(run_dir, stopped.set) as lease:
        run_dir.store.delete(LEASE)  # by hand, say: it was heard of a moment ago
        while not run_dir.store.exists(LEASE):
            time.sleep(0.01)
        assert not lease.is_lost
        monkeypatch.setattr(lease_module, "EXPIRES_S", 0.0)
        run_dir.store.delete(LEASE)
        assert stopped.wait(5) and lease.is_lost
    assert "run x: another process drove it" in caplog.text
    assert list(run_dir.store.list()) == []


def from_elsewhere(folder: Path, skew_s: float, host: str = "elsewhere") -> Owner:
    """A lease as a driver on another host renews it, whose clock differs from ours by so much."""
    owner = Owner("theirs", host, 1, "1", time.time() + skew_s, "another kernel")
    RunDir(str(folder), "x").store.put(LEASE, json.dumps(dataclasses.asdict(owner)).encode())
    return owner


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
@pytest.mark.parametrize("host", ["elsewhere", os.uname().nodename], ids=["host", "container"])
def test_a_living_driver_is_not_taken_over_whatever_its_clock_says(tmp_path, monkeypatch, skew_s, host):
    monkeypatch.setattr(lease_module, "LOOK_S", 0.01)
    run_dir, over = RunDir(str(tmp_path), "x"), threading.Event()
    owner = from_elsewhere(tmp_path, skew_s, host)

    def renew() -> None:
        number = 0
        while not over.wait(0.02):
            number += 1
            renewed = dataclasses.replace(owner, renewed=owner.renewed + number)
            run_dir.store.put(LEASE, json.dumps(dataclasses.asdict(renewed)).encode())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(BadSpec, match=f"process 1 on {host} is driving this run"), Lease(run_dir):
            pass
    finally:
        over.set()
        thread.join()
    assert read_owner(run_dir).nonce == "theirs"


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_a_dead_driver_of_another_host_is_taken_over_whatever_its_clock_said(tmp_path, monkeypatch, skew_s, caplog):
    monkeypatch.setattr(lease_module, "LOOK_S", 0.01)
    monkeypatch.setattr(lease_module, "WATCH_S", 0.1)
    from_elsewhere(tmp_path, skew_s)
    run_dir = RunDir(str(tmp_path), "x")
    with Lease(run_dir):
        assert read_owner(run_dir).pid == os.getpid()
    assert "process 1 on elsewhere drove run x and may be dead: waiting" in caplog.text


def test_a_request_to_stop_is_left_for_a_driver_that_only_seems_to_be_silent(tmp_path, capsys):
    """Its clock may be an hour behind. Of a process of this host it is known that it is dead."""
    words = [f"storage.root={tmp_path}", "run_id=x", "job=stop"]
    run_dir = RunDir(str(tmp_path), "x")
    freeze(run_dir, compose(words).job)
    for skew_s, said in ((-3600.0, r", which was not heard of for 36\d\d s by this host's clock,"), (9.0, "")):
        from_elsewhere(tmp_path, skew_s)
        assert stop.run(compose(words)) == 0
        assert re.search(rf"asked run x \(process 1 on elsewhere\){said} to save and stop", capsys.readouterr().out)
        assert run_dir.store.exists(STOP_REQUEST)
        run_dir.store.delete(STOP_REQUEST)
    abandoned(tmp_path)
    assert stop.run(compose(words)) == 0
    assert "is not running: nothing to stop" in capsys.readouterr().out and not run_dir.store.exists(STOP_REQUEST)


def test_a_store_that_fails_at_the_end_does_not_undo_the_job(tmp_path, monkeypatch, caplog):
    run_dir = RunDir(str(tmp_path), "x")

    def fail(name: str) -> bytes:
        raise StoreError("the bucket is gone")

    with Lease(run_dir):
        monkeypatch.setattr(run_dir.store, "get", fail)
    assert "stays until it expires: the bucket is gone" in caplog.text


def test_what_is_removed_at_the_end_stays_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "RENEW_S", 0.001)
    run_dir = RunDir(str(tmp_path), "x")
    with Lease(run_dir) as lease:
        lease.end_with(run_dir.remove)
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_nobody_reaped_is_dead():
    with subprocess.Popen(["sleep", "60"]) as process:
        assert birth(process.pid) != ""
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        assert birth(process.pid) == ""
