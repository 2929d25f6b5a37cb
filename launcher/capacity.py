"""What a person and the events hear of missing hosts."""

from launcher.console import Console
from launcher.journal import Journal


class Capacity:
    """Tells once when hosts are missing, and once when the waiting is over."""

    def __init__(self, journal: Journal, console: Console):
        self._journal, self._console = journal, console
        self._is_waiting = False
        self._size: int | None = None

    def missing(self, attempt: int, why: str) -> bool:
        """Hosts are missing, and this is why. Always true."""
        if not self._is_waiting:
            self._is_waiting = True
            self._console.say(f"waiting for capacity - {why}")
            self._journal.event("capacity_missing", attempt, why=why)
        return True

    def settle(self, attempt: int, workers: int, wanted: int) -> None:
        """It goes on with so many workers."""
        if self._is_waiting:
            self._journal.event("capacity_found", attempt, workers=workers, wanted=wanted)
        self._is_waiting = False
        if workers != (wanted if self._size is None else self._size):
            self._console.say(f"going on with {workers} of {wanted} workers")
        self._size = workers
