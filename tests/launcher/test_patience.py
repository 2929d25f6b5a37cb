"""Who is taken for hung, as a table."""

import pytest

from conf.schema import ClusterSpec
from launcher.messages import WorkerStatus
from launcher.patience import patience_s, stalled


@pytest.mark.parametrize(
    ("asked", "phase", "has_trained", "longest_s", "expected"),
    [
        (None, "training", True, 0.0, 120.0),  # the floor
        (None, "training", True, 11.9, 120.0),
        (None, "training", True, 30.0, 300.0),  # ten times the slowest
        (None, "evaluating", True, 30.0, 300.0),
        (None, "exporting", True, 30.0, 600.0),  # happens once: no rhythm to learn from
        (None, "saving", True, 0.0, 600.0),
        (None, "compiling", True, 1.0, 600.0),  # a later phase of the training begins
        (None, "starting", False, 0.0, 640.0),  # and a start may take its own time on top
        (5.0, "training", True, 30.0, 5.0),  # what was asked is taken
        (5.0, "exporting", True, 30.0, 5.0),
        (5.0, "starting", False, 0.0, 45.0),
        (9000.0, "training", True, 1.0, 9000.0),
    ],
)
def test_patience(asked, phase, has_trained, longest_s, expected):
    cluster = ClusterSpec(hang_timeout_s=asked, start_timeout_s=40.0)
    first = 10 if has_trained else None
    status = WorkerStatus(0, progress={"phase": phase}, first_step=first, longest_silence_s=longest_s)
    assert patience_s(cluster, status) == expected


def test_the_most_silent_come_first_and_the_dead_are_not_waited_for():
    cluster = ClusterSpec(hang_timeout_s=10.0)
    silences = {0: 11.0, 1: 12.0, 2: 9.0, 3: 99.0}
    statuses = {
        rank: WorkerStatus(rank, silent_s=silent_s, first_step=1, exit_code=-9 if rank == 3 else None)
        for rank, silent_s in silences.items()
    }
    assert stalled(cluster, statuses) == [1, 0]
