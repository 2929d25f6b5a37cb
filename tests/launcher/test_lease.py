"""The lease: who may drive a run, and what happens when two want to."""

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from conf.errors import BadSpec
from launcher import lease as lease_module
from launcher.lease import LEASE, Lease, Owner, birth, read_owner
from storage.run_dir import RunDir

DEAD = Owner("dead", os.uname().nodename, os.getpid(), "not when this process was born", 0.0)


def abandoned(folder: Path, name: str = LEASE) -> RunDir:
    """A run whose driver died."""
    run_dir = RunDir(str(folder), "x")
    run_dir.store.put(name, json.dumps(dataclasses.asdict(DEAD)).encode())
    return run_dir


def test_of_two_drivers_one_takes_a_dead_ones_lease_over(tmp_path, monkeypatch):
    run_dir, second = abandoned(tmp_path), Lease(RunDir(str(tmp_path), "x"))
    is_alive = lease_module.is_alive

    def slow(owner: Owner, now: float) -> bool:
        monkeypatch.setattr(lease_module, "is_alive", is_alive)
        second.__enter__()  # while the first one still thinks about the dead owner
        return is_alive(owner, now)

    monkeypatch.setattr(lease_module, "is_alive", slow)
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
        abandoned(tmp_path)
        assert stopped.wait(5)
    assert "drives run x now" in caplog.text
    assert read_owner(run_dir) == DEAD  # a foreign lease is left alone


def test_a_process_that_nobody_reaped_is_dead():
    with subprocess.Popen(["sleep", "60"]) as process:
        assert birth(process.pid) != ""
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        assert birth(process.pid) == ""
