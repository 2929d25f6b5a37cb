"""Which worker the others wait for. Pure: statuses in, a sentence's worth of numbers out.

Each worker tells how long its own part of the steps has taken: from the step before to its own gradients, without the
all-reduce in which it waits for the others. A step is as long as the slowest of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from launcher.messages import WorkerStatus

#: How much longer than the others' a worker's own part has to be...
FACTOR = 1.5
#: ...over at least so many steps and so much time of the slowest.
MIN_STEPS = 20
MIN_S = 1.0


@dataclass(frozen=True)
class Straggler:
    """The worker that the others wait for: seconds a step of its own part, and the middle one of the others'."""

    rank: int
    own_step_s: float
    others_step_s: float


class Stragglers:
    """Compares the workers of one attempt, some steps at a time."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[int, float]] = {}
        self._named: int | None = None

    def note(self, statuses: Mapping[int, WorkerStatus]) -> Straggler | int | None:
        """A straggler that was not named yet; the rank of one that is none any more; or nothing."""
        told = {rank: _told(status) for rank, status in statuses.items()}
        now = {rank: pair for rank, pair in told.items() if pair is not None}
        if len(statuses) < 2 or len(now) < len(statuses):
            return None
        if not self._since:
            self._since = now
            return None
        steps = {rank: now[rank][0] - self._since[rank][0] for rank in now}
        own = {rank: now[rank][1] - self._since[rank][1] for rank in now}
        if min(steps.values()) < MIN_STEPS or max(own.values()) < MIN_S:
            return None
        self._since = now
        return self._judge({rank: own[rank] / steps[rank] for rank in now})

    def _judge(self, step_s: Mapping[int, float]) -> Straggler | int | None:
        slowest = max(step_s, key=lambda rank: step_s[rank])
        others = median(seconds for rank, seconds in step_s.items() if rank != slowest)
        before, self._named = self._named, slowest if step_s[slowest] > FACTOR * others else None
        if self._named == before:
            return None
        return before if self._named is None else Straggler(slowest, step_s[slowest], others)


def _told(status: WorkerStatus) -> tuple[int, float] | None:
    own_s = (status.progress.get("pace") or {}).get("own_s")
    return None if own_s is None or status.step is None else (status.step, float(own_s))
