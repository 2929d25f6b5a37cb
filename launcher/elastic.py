"""How many workers a job may go on with, and when it grows back. Pure but for the clock.

The global batch and the order of the examples stay the same on any number of workers, so a size is possible where the
batch can be cut into its shares.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from conf import rules
from conf.schema import JobSpec
from launcher.messages import WorkerStatus

#: How often a smaller gang looks for room.
LOOK_EVERY_S = 1.0


def sizes(job: JobSpec) -> tuple[int, ...]:
    """The numbers of workers that the job may run on, the largest first; its own alone where it is not elastic."""
    workers, fewest = job.cluster.workers, job.cluster.min_workers
    multiple = rules.batch_multiples(job)
    if fewest is None or multiple is None:
        return (workers,)
    of_one = multiple // workers
    return tuple(
        size for size in range(workers, fewest - 1, -1) if job.trainer.global_batch_size % (size * of_one) == 0
    )


def largest(possible: Sequence[int], available: int) -> int | None:
    """The largest possible size that so many workers are enough for; None if there is none."""
    return max((size for size in possible if size <= available), default=None)


class Growth:
    """Whether a gang that runs on fewer workers than it might shall grow: at a checkpoint, when there is room."""

    def __init__(self, possible: Sequence[int], room: Callable[[], int]):
        self._possible, self._room = possible, room
        self._size, self._looked = max(possible, default=0), 0.0
        self._target: int | None = None

    def begin(self, size: int) -> None:
        """The gang runs on this many workers."""
        self._size, self._target = size, None

    def due(self, statuses: Mapping[int, WorkerStatus]) -> int | None:
        """The size to grow to now, if it is time."""
        if self._size >= max(self._possible, default=0):
            return None
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._target = largest(self._possible, self._room())
        told = (event.get("event") for status in statuses.values() for event in status.events)
        is_larger = self._target is not None and self._target > self._size
        return self._target if is_larger and "checkpoint_saved" in told else None
