"""Why a gang that works shall save, stop and start again: it may grow, a host goes away, a worker has to leave."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from launcher.elastic import Growth
from launcher.messages import WorkerStatus
from launcher.recovery import Kind
from launcher.rendezvous import ranks

#: How often Ray is asked which hosts are about to be taken away.
LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Leaving:
    """The end of an attempt that the driver asks for."""

    kind: Kind
    message: str


class Turnover:
    """Looks for such a reason, again and again. `leaving` names ranks whose host goes away."""

    def __init__(self, possible: Sequence[int], room: Callable[[], int], leaving: Callable[[], Sequence[int]] | None):
        self._growth, self._leaving, self._looked = Growth(possible, room), leaving, 0.0

    def begin(self, size: int) -> None:
        """An attempt on this many workers begins."""
        self._growth.begin(size)

    def due(self, statuses: Mapping[int, WorkerStatus]) -> Leaving | None:
        """The reason, if there is one."""
        told = [rank for rank, status in statuses.items() if (status.progress.get("pace") or {}).get("stops")]
        if told:
            return Leaving(Kind.preempted, f"{ranks(told)} was told to leave (SIGTERM)")
        if self._leaving and time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            if drained := self._leaving():
                return Leaving(Kind.preempted, f"the host of {ranks(drained)} is drained")
        size = self._growth.due(statuses)
        return Leaving(Kind.resized, f"there is room for {size} workers again") if size else None
