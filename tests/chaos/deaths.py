"""`make chaos`: each worker dies, or stands still, in each phase of a job; the job goes on, blames it, ends the same.

What dies around the workers (agents, hosts, driver, Ray's head): tests/launcher/test_deaths.py and the soak.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.goodput import seconds_of
from storage.run_dir import RunDir
from tests.end_to_end.conftest import Command
from tests.end_to_end.storm import assert_same
from tests.launcher.conftest import living

STEPS = 60
#: The deadline of a worker that stands still before its first step is the sum of both.
HANG_S, START_S = 15, 30
JOB = (
    "cluster=2cpu",
    f"cluster.hang_timeout_s={HANG_S}",
    f"cluster.start_timeout_s={START_S}",
    "trainer.global_batch_size=32",
    f"trainer.steps={STEPS}",
    "trainer.checkpoint_every_steps=20",
    "trainer.steps_per_loop=5",
    "trainer.model.dropout=0.2",
    "data.augment.pad_crop=1",
)
#: (key, rank, phase). The chief alone saves and exports.
CASES = [
    *(("kill", rank, phase) for phase in ("starting", "training", "evaluating") for rank in (0, 1)),
    ("kill", 0, "saving"),
    ("kill", 0, "exporting"),
    ("freeze", 1, "starting"),
    ("freeze", 0, "training"),
    ("freeze", 1, "evaluating"),
    ("freeze", 0, "saving"),
    ("freeze", 0, "exporting"),
    ("raise", 1, "training"),
    ("exhaust", 0, "evaluating"),
]
KINDS = {"kill": "infrastructure", "freeze": "hang", "raise": "infrastructure", "exhaust": "out_of_memory"}


@pytest.fixture(scope="module")
def calm(convoy: Command) -> RunDir:
    convoy.run("run_id=calm", *JOB)
    return RunDir(str(convoy.runs), "calm")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("way", "rank", "phase"), CASES, ids=lambda value: str(value))
def test_a_death_is_blamed_on_the_dead_and_costs_nothing(
    calm: RunDir, convoy: Command, tmp_path: Path, show: Callable[..., None], way: str, rank: int, phase: str
) -> None:
    run_id = f"{way}-{rank}-{phase}"
    convoy.run(f"run_id={run_id}", *JOB, f"fault.{way}_rank={rank}", f"fault.during={phase}", "fault.at_step=25")
    run = RunDir(str(convoy.runs), run_id)
    (fault,) = convoy.events(run_id, "fault")
    ended = next(event for event in convoy.events(run_id, "attempt_ended") if event["details"]["kind"] != "done")
    took = seconds_of(ended) - fault["details"]["time"]
    show(f"  {run_id:<22} noticed after {took:5.1f} s: {ended['details']['reason'][:100]}")
    assert (ended["rank"], ended["details"]["kind"]) == (rank, KINDS[way])
    assert took < HANG_S + START_S + 10
    assert convoy.json(run_id, "outcome.json")["attempts"] == 2
    assert_same(calm, run, STEPS, tmp_path)
    assert not [process.cmdline() for process in living(str(convoy.runs))]


def test_the_same_death_at_the_same_step_twice_stops_the_job_and_says_so(calm: RunDir, convoy: Command) -> None:
    words = ("fault.kill_rank=1", "fault.at_step=25", "fault.attempts=[1,2,3]")
    said = convoy.run("run_id=twice", *JOB, *words, expect=1)
    assert "failed - rank 1: killed by signal 9; the same death twice at step 25" in said
    assert convoy.json("twice", "outcome.json")["attempts"] == 2
    convoy.run("run_id=twice")  # the same job without its faults


def test_a_damaged_checkpoint_and_failing_writes_are_got_over(calm: RunDir, convoy: Command, tmp_path: Path) -> None:
    convoy.run("run_id=damaged", *JOB, "fault.corrupt_checkpoint=true", "fault.at_step=30")
    assert "crc32c" in str(convoy.events("damaged", "restored")[0]["details"]["broken"])
    assert convoy.events("damaged", "restored")[0]["details"]["step"] == 20
    convoy.run("run_id=unwritten", *JOB, "fault.failing_writes=3", "fault.at_step=30")
    assert convoy.json("unwritten", "outcome.json")["attempts"] == 2
    for run_id in ("damaged", "unwritten"):
        assert_same(calm, RunDir(str(convoy.runs), run_id), STEPS, tmp_path / run_id)
