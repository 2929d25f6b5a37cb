"""The account of a run's time, as a table: events in, seconds by part out."""

from datetime import UTC, datetime
from typing import Any

import pytest

from launcher.goodput import PARTS, Goodput, goodput, table
from launcher.journal import Journal, Spent
from launcher.messages import WorkerStatus
from storage.run_dir import RunDir
from trainer.ledger import Ledger

START = 1_800_000_000.0
#: Ten steps in the first call of the loop, forty in later ones, a tenth of a second each.
SPENT = {"first_loop": 3.0, "training": 3.0, "input_wait": 1.0, "checkpoint": 0.5, "evaluation": 0.25, "other": 0.25}
STEPS = {"from_step": 0, "first_steps": 10, "step": 50}


def at(seconds: float, kind: str, rank: int | None = None, /, **details: Any) -> dict[str, Any]:
    time = datetime.fromtimestamp(START + seconds, UTC).isoformat(timespec="milliseconds")
    return {"time": time, "kind": kind, "rank": rank, "details": details}


def account(start_up: float, **steps: int) -> dict[str, float]:
    return SPENT | {"start_up": start_up} | STEPS | steps


def parts_of(events: list[dict[str, Any]]) -> dict[str, float]:
    """The parts that are not 0; together they are the whole."""
    found = goodput(events)
    assert sum(found.parts.values()) == pytest.approx(found.wall_s, abs=1e-6)
    return {name: pytest.approx(seconds, abs=2e-3) for name, seconds in found.parts.items() if abs(seconds) > 1e-3}


COMMAND = at(1.0, "command", job="train", age_s=1.0)
CALM = [
    COMMAND,
    at(5, "attempt_started", module="trainer.worker"),
    at(16, "attempt_ended", kind="done", spent=account(2.0), silent_s=0.5),
    at(17, "succeeded"),
]
#: The first call of the loop took 3 s, of which its ten steps are worth 10 * 3.0 / 40.
FIRST = 10 * 3.0 / 40
#: 11 s of attempt, 10 of which the worker accounts for and 0.5 of which come after its last word.
CALM_PARTS = {
    "training": 3.0 + FIRST,
    "input_wait": 1.0,
    "checkpoint": 0.5,
    "evaluation": 0.25,
    "start_up": 5 + 0.5 + 2.0 + 3.0 - FIRST,
    "other": 0.25 + 0.5 + 1,
}


def test_a_calm_run_loses_nothing():
    assert parts_of(CALM) == CALM_PARTS
    found = goodput(CALM)
    assert (found.wall_s, found.attempts, found.steps, found.lost_steps) == (pytest.approx(17), 1, 50, 0)
    assert found.share == pytest.approx((3.0 + FIRST) / 17)


def killed(restored: int) -> list[dict[str, Any]]:
    """Killed at step 50, seen 4 s later; goes on from `restored` after 2 s of waiting."""
    again = SPENT | {"start_up": 1.0, "from_step": restored, "first_steps": 10, "step": restored + 50}
    return [
        *CALM[:2],
        at(19.5, "attempt_ended", kind="infrastructure", spent=account(2.0), silent_s=4.0),
        at(21.5, "attempt_started", module="trainer.worker"),
        at(31, "attempt_ended", kind="done", spent=again, silent_s=0.5),
        at(31, "succeeded"),
    ]


@pytest.mark.parametrize("restored", [50, 40, 0])
def test_steps_that_are_done_again_are_lost(restored):
    found = parts_of(killed(restored))
    lost = (50 - restored) / 50
    once = 3.0 + FIRST
    assert found["training"] == pytest.approx(once * (2 - lost))
    assert found["input_wait"] == pytest.approx(1.0 * (2 - lost))
    assert found.get("lost_work", 0.0) == pytest.approx((once + 1.0) * lost)
    assert found["restart"] == pytest.approx(4.0 + 2.0 + 1.0 + 3.0 - FIRST)
    assert found["start_up"] == pytest.approx(5 + 0.5 + 2.0 + 3.0 - FIRST)
    told = goodput(killed(restored))
    assert (told.attempts, told.steps, told.lost_steps) == (2, restored + 50, 50 - restored)


def test_an_older_checkpoint_takes_the_work_of_several_attempts():
    third = account(1.0) | {"from_step": 10, "step": 60}
    events = [
        *killed(40)[:-2],
        at(31, "attempt_ended", kind="infrastructure", spent=account(1.0) | {"from_step": 40, "step": 90}, silent_s=0),
        at(31, "attempt_started", module="trainer.worker"),
        at(41, "attempt_ended", kind="done", spent=third, silent_s=0),
    ]
    told = goodput(events)
    assert (told.steps, told.lost_steps) == (60, 10 + 30 + 50)
    assert parts_of(events)["training"] == pytest.approx((3.0 + FIRST) * (10 / 50 + 0 + 1))


def test_what_stands_behind_the_last_checkpoint_of_a_job_that_failed_is_lost():
    events = [*CALM[:2], at(8, "checkpoint_saved", 0, step=30), *killed(40)[2:3], at(20, "failed", step=50)]
    assert (goodput(events).steps, goodput(events).lost_steps) == (30, 20)
    stopped = [*CALM[:2], at(16, "attempt_ended", kind="stopped", spent=account(2.0), silent_s=0), at(17, "stopped")]
    assert (goodput(stopped).steps, goodput(stopped).lost_steps) == (50, 0)


def test_waiting_for_capacity_is_a_part_of_its_own():
    events = killed(40)
    waits = [at(20, "capacity_missing"), at(21, "capacity_found")]
    found, before = parts_of([*events[:3], *waits, *events[3:]]), parts_of(events)
    assert found["capacity"] == 1.0
    assert found["restart"] == pytest.approx(before["restart"].expected - 1.0)
    straight = parts_of([*events[:3], waits[0], *events[3:]])  # the attempt itself says that there is enough now
    assert straight["capacity"] == pytest.approx(1.5)


def test_a_killed_driver_ends_with_its_last_event_and_its_absence_is_no_time_of_the_run():
    dead = [*CALM[:2], at(15, "spent", 0, **account(2.0))]
    later = [{**event, "time": at(1000 + 10 * n, "x")["time"]} for n, event in enumerate(CALM)]
    assert goodput(dead).wall_s == pytest.approx(15)
    found = goodput([*dead, *later])
    assert found.wall_s == pytest.approx(15 + 31)
    assert (found.attempts, found.steps, found.lost_steps) == (2, 50, 50)
    assert sum(found.parts.values()) == pytest.approx(found.wall_s)


def test_preparing_is_no_start_up_and_other_tasks_are_no_training():
    events = [
        COMMAND,
        at(2, "attempt_started", module="data_pipeline.prepare"),
        at(6, "attempt_ended", kind="done"),
        *[{**event, "time": at(seconds, "x")["time"]} for event, seconds in zip(CALM[1:], (9, 20, 21), strict=True)],
        at(30, "command", job="evaluate", age_s=1.0),
        at(31, "attempt_started", module="trainer.worker"),
        at(40, "attempt_ended", kind="done"),
    ]
    found = parts_of(events)
    assert found["preparing"] == 4.0 and found["start_up"] == pytest.approx(CALM_PARTS["start_up"])
    assert goodput(events).wall_s == pytest.approx(21)


def test_what_another_command_does_with_the_run_meanwhile_is_no_time_of_the_training():
    """As `job=evaluate` while it trains, which is an attempt with a ledger of its own."""
    measuring = [
        at(6, "command", job="evaluate", age_s=1.0),
        at(8, "attempt_started", module="trainer.worker"),
        at(9, "checkpoint_saved", step=1000),
        at(12, "attempt_ended", kind="infrastructure", spent=account(1.0), silent_s=0.5),
        at(14, "attempt_started", module="trainer.worker"),  # it ends after the training, or never
    ]
    tasks = [{**event, "task": "evaluate"} for event in measuring]
    for meanwhile in (tasks, tasks[:1], tasks[:2], [*tasks, {**at(30, "attempt_ended", kind="done"), "task": "x"}]):
        events = sorted([*CALM, *meanwhile], key=lambda event: event["time"])
        assert goodput(events) == goodput(CALM)


def test_an_attempt_that_never_trained_is_start_up_then_restart():
    died = at(9, "attempt_ended", kind="infrastructure")
    events = [*CALM[:2], died, at(10, "attempt_started", module="w"), at(15, "attempt_ended", kind="unknown")]
    assert parts_of(events) == {"start_up": 9.0, "restart": 6.0}
    assert goodput([]) == Goodput(0.0, dict.fromkeys(PARTS, 0.0), 0, 0, 0)


def test_the_table_shows_shares_of_the_whole():
    rows = table(goodput(killed(40)))
    assert rows[0] == "goodput   22% of 31.0 s in 2 attempts (90 steps, 10 more lost)"
    assert any(row.split() == ["lost", "work", "(steps", "done", "again)", "0.9", "s", "3.1%"] for row in rows)
    assert not any("capacity" in row for row in rows)
    shown = [float(row.split(" s ")[0].split()[-1]) for row in rows[1:]]
    assert sum(shown) == pytest.approx(31.0, abs=0.05 * len(PARTS))


class Clock:
    """Shows what it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_moment_of_a_ledger_belongs_to_one_part():
    clock = Clock()
    ledger = Ledger(clock)
    clock.now += 4  # importing, restoring
    ledger.began(20)
    clock.now += 3
    ledger.trained(30, 3.0, 1.0)
    clock.now += 1  # curves
    with ledger.spending("evaluation"):
        clock.now += 2
    clock.now += 5
    ledger.trained(40, 5.0, 1.5)
    with ledger.spending("checkpoint"):
        clock.now += 0.5
    told = ledger.told()
    assert {name: told.pop(name) for name in STEPS} == {"from_step": 20, "first_steps": 10, "step": 40}
    assert told == {
        "start_up": 4.0,
        "first_loop": 3.0,
        "training": 3.5,
        "input_wait": 1.5,
        "evaluation": 2.0,
        "checkpoint": 0.5,
        "other": 1.0,
    }
    assert sum(told.values()) == clock.now - 100


def test_what_the_chief_told_is_written_down_with_each_checkpoint_and_at_the_end(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    spent = Spent(Journal(run_dir))
    saved = ({"event": "checkpoint_saved", "details": {"step": 5}},)
    spent.note(1, WorkerStatus(0, progress={"spent": {"training": 1.0}}))
    assert list(run_dir.events()) == []
    spent.note(1, WorkerStatus(0, progress={"spent": {"training": 2.0}}, events=saved))
    assert [event["details"] for event in run_dir.events()] == [{"training": 2.0}]
    spent.note(1, WorkerStatus(0, result={"spent": {"training": 3.0}}))
    assert spent.last()["spent"] == {"training": 3.0}
    spent.forget()
    assert spent.last() == {}
