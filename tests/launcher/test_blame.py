"""Who is the cause when the first to end had only lost somebody."""

import os
import signal
import subprocess
import sys

import pytest

from launcher.blame import is_unexplained, suspect
from launcher.messages import WorkerStatus
from launcher.recovery import Action, Kind, decide, diagnose
from launcher.watch import is_suspended
from tests.launcher.conftest import lives

LOST = {"error_kind": "infrastructure", "message": "lost contact with another worker (UnavailableError: heartbeat)"}
AT_50 = {"phase": "training", "step": 50}


def living(rank: int, **fields: object) -> WorkerStatus:
    return WorkerStatus(rank, True, pid=77, progress=AT_50, first_step=1, **fields)


def ended(rank: int, code: int = 1, at: float = 1.0, **fields: object) -> WorkerStatus:
    return WorkerStatus(rank, True, exit_code=code, exit_time=at, progress=AT_50, first_step=1, **fields)


def by_rank(*statuses: WorkerStatus) -> dict[int, WorkerStatus]:
    return {status.rank: status for status in statuses}


@pytest.mark.parametrize(
    ("statuses", "kind", "rank", "words"),
    [
        # Its heartbeats fail first, but the one that stands still is the cause.
        ([ended(0, error=LOST), living(1, suspended=True)], Kind.hang, 1, "stands still: its process 77"),
        ([ended(0, -6), living(1, suspended=True)], Kind.hang, 1, "stands still"),
        ([ended(0, error=LOST), living(1, suspended=True), ended(2, error=LOST)], Kind.hang, 1, "stands still"),
        # Nobody dies by SIGKILL because another one stands still.
        ([ended(0, -9), living(1, suspended=True)], Kind.infrastructure, 0, "killed by signal 9"),
        # A host that is gone: its agent says nothing.
        ([ended(0, error=LOST), living(1, unheard_s=2.0)], Kind.infrastructure, 1, "has not answered for 2 s"),
        # Clocks of hosts differ: an account of a lost peer is never the cause of the peer's own death.
        ([ended(0, error=LOST, at=1.0), ended(1, -9, at=5.0)], Kind.infrastructure, 1, "killed by signal 9"),
        # Nobody else to blame.
        ([ended(0, error=LOST), living(1, unheard_s=0.3)], Kind.infrastructure, 0, "lost contact"),
        # A bug is a bug, whoever else stands still.
        ([ended(0, error={"error_kind": "user", "message": "ValueError: x"}), living(1, suspended=True)],
         Kind.user, 0, "ValueError"),
    ],
)  # fmt: skip
def test_the_cause_is_blamed_and_the_others_are_listed_behind_it(statuses, kind, rank, words):
    ending = diagnose(by_rank(*statuses), stop_requested=False)
    assert (ending.kind, ending.rank) == (kind, rank)
    assert words in ending.message
    dead = {status.rank for status in statuses if status.ended} - {rank}
    assert set(ending.others or {}) == dead


def test_a_worker_that_stands_still_at_the_same_step_twice_ends_the_job():
    ending = diagnose(by_rank(ended(0, error=LOST), living(1, suspended=True)), stop_requested=False)
    assert decide([ending], 3).action is Action.restart
    decision = decide([ending, ending], 3)
    assert decision.action is Action.give_up
    assert "rank 1: stands still" in decision.reason and "the same death twice at step 50" in decision.reason


def test_in_a_hang_the_suspended_one_is_named():
    statuses = by_rank(living(0, silent_s=61.0), living(1, silent_s=60.5, suspended=True))
    ending = diagnose(statuses, stop_requested=False, stalled=[1, 0])
    assert (ending.kind, ending.rank) == (Kind.hang, 1)
    assert "no progress from ranks 0, 1" in ending.message and "rank 1: stands still" in ending.message


@pytest.mark.parametrize(
    ("frozen", "words"), [({"suspended": True}, "stands still"), ({"unheard_s": 4.0}, "has not answered for 4 s")]
)
def test_in_a_hang_the_one_that_the_silent_wait_for_is_named_before_it_is_late_itself(frozen, words):
    statuses = by_rank(living(0, silent_s=4.8, **frozen), living(1, silent_s=5.1))
    ending = diagnose(statuses, stop_requested=False, stalled=[1])
    assert (ending.kind, ending.rank) == (Kind.hang, 0)
    assert "no progress from rank 1 for 5 s; rank 0: " in ending.message and words in ending.message


def test_in_a_hang_that_nobody_explains_the_most_silent_one_is_named():
    ending = diagnose(by_rank(living(0, silent_s=3.0), living(1, silent_s=5.1)), stop_requested=False, stalled=[1])
    assert (ending.kind, ending.rank, ending.message) == (Kind.hang, 1, "no progress from rank 1 for 5 s")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([ended(0, error=LOST), living(1)], True),
        ([ended(0, error=LOST), living(1, suspended=True)], False),
        ([ended(0, error=LOST), ended(1, error=LOST)], False),
        ([ended(0, -9), living(1)], False),
        ([ended(0, 0), living(1)], False),
        ([living(0), living(1)], False),
    ],
)
def test_only_what_nobody_explains_is_waited_for(statuses, expected):
    assert is_unexplained(by_rank(*statuses)) is expected


def test_nobody_is_suspected_who_answers_and_runs():
    assert suspect(by_rank(living(0, unheard_s=0.4), ended(1))) is None


def test_the_kernel_says_who_is_suspended():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not is_suspended(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        while not is_suspended(process.pid):
            assert lives(process.pid)
        os.kill(process.pid, signal.SIGCONT)
        while is_suspended(process.pid):
            assert lives(process.pid)
    finally:
        process.kill()
        process.wait()
    assert not is_suspended(process.pid)
