"""The policy as a table: how attempts ended in, what to do out."""

from dataclasses import replace

import pytest

from launcher.messages import WorkerStatus
from launcher.recovery import MEMORY_CURE, SMALLEST_CURE, Action, Ending, Kind, back_off_s, decide, diagnose

KILLED = Ending(Kind.infrastructure, rank=1, exit_code=-9, step=50, first_step=10, message="killed by signal 9")
LATER = Ending(Kind.infrastructure, rank=1, exit_code=-9, step=60, first_step=10, message="killed by signal 9")
LOST = Ending(Kind.infrastructure, message="1 of 2 workers did not report")
PREEMPTED = Ending(Kind.preempted, rank=0, exit_code=75, step=50, first_step=10)
RESIZED = Ending(Kind.resized, rank=0, exit_code=75, step=50, first_step=10)
PORT = Ending(Kind.port, rank=0, exit_code=1)
SMALLER = Ending(Kind.out_of_memory, rank=1, exit_code=1, step=5, first_step=1, smaller="micro-batches of 8")
STUCK = Ending(Kind.preempted, rank=0, exit_code=75)


@pytest.mark.parametrize(
    ("endings", "max_restarts", "action", "counted"),
    [
        ([Ending(Kind.done)], 0, Action.finish, False),
        ([Ending(Kind.stopped)], 0, Action.finish, False),
        ([Ending(Kind.bad_spec, exit_code=78)], 9, Action.give_up, False),
        ([Ending(Kind.user, exit_code=1)], 9, Action.give_up, False),
        ([Ending(Kind.bad_data, exit_code=1)], 9, Action.give_up, False),
        ([Ending(Kind.disk_full, exit_code=1)], 9, Action.give_up, False),
        ([Ending(Kind.no_capacity)], 9, Action.give_up, False),  # it was waited for already
        ([RESIZED] * 9, 0, Action.restart, False),
        ([Ending(Kind.blow_up, rank=0, exit_code=1)], 9, Action.give_up, False),
        ([Ending(Kind.rolled_back, rank=0, exit_code=1, step=50, first_step=10)] * 30, 0, Action.restart, False),
        ([KILLED], 3, Action.restart, True),
        ([KILLED], 0, Action.give_up, False),
        ([KILLED, LATER, KILLED], 3, Action.restart, True),
        ([KILLED, LATER, KILLED, LATER], 3, Action.give_up, False),
        ([KILLED, KILLED], 9, Action.give_up, False),  # the same death at the same step
        ([LOST, LOST], 9, Action.restart, True),  # outside of training nothing is said about the job
        ([Ending(Kind.hang, rank=0, step=5, first_step=1)], 3, Action.restart, True),
        ([Ending(Kind.out_of_memory, rank=0, exit_code=1)], 3, Action.restart, True),
        ([SMALLER] * 5, 0, Action.restart, False),  # each with less to remember than the one before
        ([SMALLER, SMALLER, KILLED], 1, Action.restart, True),
        ([SMALLER, Ending(Kind.out_of_memory, rank=1, exit_code=1, step=5, first_step=1)], 0, Action.give_up, False),
        ([Ending(Kind.unknown, rank=0, exit_code=1)], 3, Action.restart, True),
        ([PREEMPTED] * 9, 0, Action.restart, False),
        ([STUCK] * 21, 0, Action.give_up, False),
        ([PORT] * 5, 0, Action.restart, False),
        ([PORT] * 6, 0, Action.give_up, False),
        ([KILLED, PREEMPTED, RESIZED, PORT, LATER], 2, Action.restart, True),  # free ones do not eat the budget
    ],
)
def test_decisions(endings, max_restarts, action, counted):
    decision = decide(endings, max_restarts)
    assert (decision.action, decision.counted) == (action, counted)


def test_the_same_death_twice_says_so():
    assert "same death twice at step 50" in decide([KILLED, KILLED], 9).reason


def test_who_gives_up_for_want_of_memory_says_what_needs_less():
    exhausted = replace(SMALLER, smaller="")
    for reason in (decide([exhausted, exhausted], 9).reason, decide([exhausted], 0).reason):
        assert reason.endswith(f" - {MEMORY_CURE}") and "trainer.micro_batch=auto" in reason
    assert "micro_batch" not in decide([exhausted], 1).reason + decide([KILLED, KILLED], 9).reason
    smallest = decide([SMALLER, replace(exhausted, is_smallest=True)], 0).reason
    assert smallest.endswith(f" - {SMALLEST_CURE}") and "trainer.micro_batch" not in smallest, "which it has done"
    exporting = decide([replace(exhausted, phase="exporting")], 0).reason
    assert "job=export" in exporting and "trainer." not in exporting
    evaluating = decide([replace(exhausted, phase="evaluating")], 0).reason
    assert evaluating.endswith("trainer.eval_batch_size") and "micro_batch" not in evaluating


def failed(message: str, step: int = 50, first_step: int | None = 10) -> Ending:
    return Ending(Kind.unknown, rank=0, exit_code=1, step=step, first_step=first_step, message=message)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (failed("OpError: see attempts/01/rank_0.log"), failed("OpError: see attempts/02/rank_0.log"), True),
        (failed("OpError: x"), failed("ValueError: x"), False),
        (failed("OpError: x"), failed("OpError: x", step=51), False),
        (failed("/runs/x/attempts/01: gone"), failed("/runs/x/attempts/02: gone"), True),
        (failed("no sign for 61 s"), failed("no sign for 62 s"), True),
        (failed("OpError: x"), replace(failed("OpError: x"), rank=1), True),
        (KILLED, replace(KILLED, rank=5), False),
        (failed("OpError: x", first_step=None), failed("OpError: x", first_step=None), False),
    ],
)
def test_what_makes_two_deaths_the_same(first, second, is_same):
    assert (decide([first, second], 9).action is Action.give_up) == is_same


def test_a_list_of_problems_is_shown_whole_one_a_line():
    listed = "\n".join(["the job has 20 problems", *(f"  field_{n}=1 - {'law ' * 10}- cure" for n in range(20))])
    refused = ended(0, 78, 1, error={"error_kind": "bad_spec", "message": listed})
    ending = diagnose({0: refused}, stop_requested=False)
    assert ending.message == listed
    assert decide([ending], 3).reason.endswith(listed)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        ({"error_kind": "disk_full", "message": "/runs/x: full"}, "free some space or choose another storage.root"),
        ({"error_kind": "user", "message": "OSError: [Errno 28] No space left on device"}, "the same command goes on"),
        ({"error_kind": "infrastructure", "message": "ENOSPC; free some space"}, "rank 0: ENOSPC; free some space"),
    ],
)
def test_a_full_disk_is_not_retried(error, cure):
    ending = diagnose({0: ended(0, 1, 1, error=error)}, stop_requested=False)
    decision = decide([ending], 9)
    assert (ending.kind, decision.action) == (Kind.disk_full, Action.give_up)
    assert error["message"] in decision.reason and decision.reason.count("free some space") == 1
    assert cure in decision.reason


@pytest.mark.parametrize(
    ("told", "phase"),
    [
        ({}, "evaluating"),
        ({"done": 0, "of": 8}, "evaluating"),  # the number of the evaluation before
        ({"done": 6, "of": 8}, "evaluating"),
        ({"done": 8, "of": 8}, "training"),  # nothing of the steps since then is told yet
    ],
)
def test_where_memory_ran_out_is_kept(told, phase):
    evaluating = {"phase": "evaluating", "step": 5, **told}
    error = {"error_kind": "out_of_memory", "message": "MemoryError"}
    ending = diagnose({0: ended(0, 1, 1, error=error, progress=evaluating)}, stop_requested=False)
    assert (ending.kind, ending.phase, ending.step) == (Kind.out_of_memory, phase, 5)


@pytest.mark.parametrize(
    ("endings", "expected"),
    [([KILLED], 0), ([LOST], 0), ([LOST] * 2, 1), ([LOST] * 3, 2), ([LOST] * 20, 30), ([LOST] * 5 + [KILLED], 0)],
)
def test_back_off_grows_only_while_nothing_is_gained(endings, expected):
    assert back_off_s(endings) == expected


def ended(rank: int, code: int, at: float, **fields: object) -> WorkerStatus:
    return WorkerStatus(rank, started=True, exit_code=code, exit_time=at, **fields)


@pytest.mark.parametrize(
    ("statuses", "kind", "rank"),
    [
        ([ended(0, 0, 2), ended(1, 0, 1)], Kind.done, None),
        ([ended(0, 75, 2), ended(1, 75, 1)], Kind.preempted, 0),
        ([ended(0, 75, 2), ended(1, 0, 1)], Kind.preempted, 0),
        ([ended(0, 1, 2), ended(1, -9, 1)], Kind.infrastructure, 1),  # the first in time is the cause
        ([ended(0, 1, 1), ended(1, 78, 2)], Kind.bad_spec, 1),  # a refusal explains the deaths beside it
        ([ended(0, 1, 1, error={"error_kind": "user", "message": "x"})], Kind.user, 0),
        ([ended(0, 1, 1, error={"error_kind": "bad_data", "message": "x"})], Kind.bad_data, 0),
        ([ended(0, 1, 1, error={"error_kind": "user", "message": "Address already in use"})], Kind.port, 0),
        ([ended(0, 1, 1)], Kind.unknown, 0),
        ([WorkerStatus(0), WorkerStatus(1, lost="its agent died")], Kind.infrastructure, 1),
        ([WorkerStatus(0), WorkerStatus(1, lost="its agent died (on classroom-3)")], Kind.infrastructure, 1),
        ([WorkerStatus(0), WorkerStatus(1, lost="its agent died (killed for OOM)")], Kind.out_of_memory, 1),
    ],
)
def test_diagnosis(statuses, kind, rank):
    ending = diagnose({status.rank: status for status in statuses}, stop_requested=False)
    assert (ending.kind, ending.rank) == (kind, rank)


def test_a_stop_that_was_asked_for_is_no_preemption():
    assert diagnose({0: ended(0, 75, 1)}, stop_requested=True).kind is Kind.stopped


def test_other_ranks_are_reported_after_the_first_cause():
    lost_peer = ended(0, 1, 2, error={"error_kind": "infrastructure", "message": "peer is gone"})
    ending = diagnose({0: lost_peer, 1: ended(1, -9, 1)}, stop_requested=False)
    assert (ending.message, ending.others) == ("killed by signal 9", {0: "peer is gone"})
