"""On how many workers a job may run, when it grows, and why a gang that works starts again: tables."""

import pytest

from conf.schema import Accelerator, ClusterSpec, JobSpec, TrainerSpec
from launcher import elastic, turnover
from launcher.elastic import Growth, largest, sizes
from launcher.messages import WorkerStatus
from launcher.recovery import Kind
from launcher.turnover import Leaving, Turnover

SAVED = {0: WorkerStatus(0, events=({"event": "checkpoint_saved"},)), 1: WorkerStatus(1)}
QUIET = {0: WorkerStatus(0), 1: WorkerStatus(1)}


@pytest.mark.parametrize(
    ("workers", "fewest", "gpus", "batch", "expected"),
    [
        (4, None, None, 64, (4,)),
        (4, 1, None, 64, (4, 2, 1)),  # 64 cannot be cut into three
        (4, 2, None, 48, (4, 3, 2)),
        (4, 1, 2, 64, (4, 2, 1)),
        (2, 1, 8, 64, (2, 1)),
        (3, 3, None, 48, (3,)),
    ],
)
def test_sizes_are_those_that_divide_the_global_batch(workers, fewest, gpus, batch, expected):
    cluster = ClusterSpec(workers=workers, min_workers=fewest, gpus_per_worker=gpus, accelerator=Accelerator.cpu)
    assert sizes(JobSpec(cluster=cluster, trainer=TrainerSpec(global_batch_size=batch))) == expected


@pytest.mark.parametrize(("available", "expected"), [(4, 4), (3, 2), (2, 2), (1, None), (9, 4)])
def test_the_largest_that_there_is_room_for(available, expected):
    assert largest((4, 2), available) == expected


def test_a_smaller_gang_grows_at_a_checkpoint_when_there_is_room(monkeypatch):
    monkeypatch.setattr(elastic, "LOOK_EVERY_S", 0.0)
    room = [1]
    growth = Growth((2, 1), lambda: room[0])
    growth.begin(2)
    assert growth.due(SAVED) is None
    growth.begin(1)
    assert growth.due(SAVED) is None
    room[0] = 2
    assert growth.due(QUIET) is None
    assert growth.due(SAVED) == 2


def test_a_job_of_one_size_never_asks_for_room():
    def room() -> int:
        raise AssertionError

    growth = Growth((2,), room)
    growth.begin(2)
    assert growth.due(SAVED) is None


def test_why_a_gang_leaves(monkeypatch):
    monkeypatch.setattr(turnover, "LOOK_EVERY_S", 0.0)
    drained: list[int] = []
    watch = Turnover((2,), lambda: 2, lambda: drained)
    watch.begin(2)
    assert watch.due(QUIET) is None
    told = {0: WorkerStatus(0), 1: WorkerStatus(1, progress={"pace": {"stops": True}})}
    assert watch.due(told) == Leaving(Kind.preempted, "rank 1 was told to leave (SIGTERM)")
    drained.append(1)
    assert watch.due(QUIET) == Leaving(Kind.preempted, "the host of rank 1 is drained")
