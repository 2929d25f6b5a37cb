"""Faults that a job puts into itself: at which moment, to whom, and that they are real."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import BadSpec
from conf.schema import FaultPhase, FaultSpec
from storage.run_dir import RunDir
from storage.store import StoreError
from trainer.channel import Terminal
from trainer.checkpoint_files import status_of
from trainer.checkpoints import list_checkpoints, listing_of, newest_whole, save
from trainer.faults import refuse_too_late, with_faults

ROOT = Path(__file__).parents[2]
#: A worker of rank 1 that goes through its phases and says which of them it has come to.
WORKER = """
import os, sys
from conf.schema import FaultPhase, FaultSpec
from storage.run_dir import RunDir
from trainer.channel import Terminal
from trainer.faults import with_faults

field, phase, folder = sys.argv[1:]
fault = FaultSpec(**{field: 1}, at_step=20, during=FaultPhase[phase])
channel = with_faults(Terminal(True), RunDir(folder, "x"), fault, 1)
for step, phase in ((None, "starting"), (10, "training"), (20, "training"), (None, "evaluating"), (None, "exporting")):
    print("came to", phase, step, flush=True)
    channel.say("progress", phase=phase, step=step)
print("came to the end", flush=True)
"""


def worker(tmp_path: Path, field: str, phase: str) -> "subprocess.Popen[str]":
    line = [sys.executable, "-c", WORKER, field, phase, str(tmp_path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": "."})


@pytest.mark.parametrize(
    ("phase", "came_to"),
    [("starting", "starting None"), ("training", "training 20"), ("evaluating", "evaluating None")],
)
def test_a_worker_is_killed_in_the_phase_that_was_asked_for(tmp_path, phase, came_to):
    process = worker(tmp_path, "kill_rank", phase)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [line for line in said.splitlines() if line.startswith("came to")][-1] == f"came to {came_to}"
    assert "'fault': 'kill_rank'" in said  # told before it happens


def test_a_frozen_worker_stands_still_and_goes_on_when_it_is_let(tmp_path):
    process = worker(tmp_path, "freeze_rank", "training")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "came to the end"


class Rank:
    """A worker's channel and run directory in this process, with faults."""

    def __init__(self, folder: Path, rank: int = 0, **fault: object):
        self.run = RunDir(str(folder), "x")
        self.channel = with_faults(Terminal(False), self.run, FaultSpec(**fault), rank)

    def train(self, step: int) -> None:
        self.channel.say("progress", phase="training", step=step)

    def save(self, step: int) -> None:
        save(self.run, step, {"w": [1.0] * 1000}, {"progress": step}, attempt=1)
        self.channel.say("event", event="checkpoint_saved", details={"step": step})


@pytest.mark.parametrize(("field", "error"), [("raise_rank", ConnectionError), ("exhaust_rank", MemoryError)])
def test_exceptions_come_once_and_to_the_named_rank_alone(tmp_path, field, error):
    victim, other = (Rank(tmp_path, rank, at_step=20, **{field: 1}) for rank in (1, 0))
    for rank in (victim, other):
        rank.train(19)
    other.train(20)
    with pytest.raises(error, match=f"fault.{field}=1 at step 25"):
        victim.train(25)  # the first boundary of the compiled loop behind the step
    victim.train(30)


def test_a_run_that_goes_on_at_its_last_step_suffers_what_is_due_there(tmp_path):
    rank = Rank(tmp_path, raise_rank=0, at_step=20, during=FaultPhase.exporting)
    rank.channel.say("event", event="restored", details={"step": 20, "broken": []})
    with pytest.raises(ConnectionError, match="at step 20"):
        rank.channel.say("progress", phase="exporting")


def test_a_straggler_takes_longer_for_every_step(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("trainer.faults.time.sleep", slept.append)
    slow = Rank(tmp_path, 1, slow_rank=1, slow_s=0.5, at_step=20)
    for step in (10, 20, 30, 35):
        slow.train(step)
    assert slept == [5.0, 5.0, 2.5]


def test_writes_fail_as_often_as_asked_and_nothing_else_does(tmp_path):
    rank = Rank(tmp_path, failing_writes=2, at_step=20)
    rank.save(10)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"fault\.failing_writes=2"):
            rank.save(20)
    rank.run.store.put("report/metrics.json", b"{}")
    rank.save(20)
    assert [status.problem for status in list_checkpoints(rank.run, verify=True)] == [None, None]


def test_a_death_in_a_save_leaves_files_that_no_manifest_names(tmp_path):
    rank = Rank(tmp_path, raise_rank=0, at_step=20, during=FaultPhase.saving)
    rank.save(10)
    with pytest.raises(ConnectionError):
        rank.save(20)
    left = listing_of(rank.run, 20)
    assert len(left) == 2 and not any(name.endswith("manifest.json") for name in left)
    found = newest_whole(rank.run)
    assert found is not None and found.step == 10


def test_a_damaged_checkpoint_is_damaged_and_the_chief_dies_of_it(tmp_path):
    code = f"""
from tests.trainer.test_faults import Rank
from pathlib import Path
rank = Rank(Path({str(tmp_path)!r}), corrupt_checkpoint=True, at_step=15)
for step in (10, 20, 30):
    rank.save(step)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = RunDir(str(tmp_path), "x")
    assert [status.step for status in list_checkpoints(run)] == [10, 20]
    problem = status_of(run, 20, listing_of(run, 20), verify=True).problem
    assert problem is not None and "crc32c" in problem
    found = newest_whole(run)
    assert found is not None and (found.step, len(found.broken)) == (10, 1)


def test_without_faults_nothing_is_in_between(tmp_path):
    run, channel = RunDir(str(tmp_path), "x"), Terminal(False)
    store = run.store
    assert with_faults(channel, run, FaultSpec(), 0) is channel
    assert run.store is store


def test_what_happens_is_told_first(tmp_path, capsys):
    run = RunDir(str(tmp_path), "x")
    channel = with_faults(Terminal(True), run, FaultSpec(raise_rank=0, at_step=3), 0)
    with pytest.raises(ConnectionError):
        channel.say("progress", phase="training", step=3)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("event event=fault details={'fault': 'raise_rank', 'step': 3")


def test_a_fault_behind_the_last_step_is_refused():
    """A cluster that survived it would have survived nothing."""
    refuse_too_late(FaultSpec(kill_rank=0, at_step=50), 50)
    refuse_too_late(FaultSpec(at_step=51), 50)
    refuse_too_late(FaultSpec(kill_rank=0, at_step=51, during=FaultPhase.starting), 50)
    for fault in (FaultSpec(kill_rank=0, at_step=51), FaultSpec(corrupt_checkpoint=True, at_step=51)):
        with pytest.raises(BadSpec, match=r"fault\.at_step=51 - the training has 50 steps, so .* - fault\.at_step=25"):
            refuse_too_late(fault, 50)
