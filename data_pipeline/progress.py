"""Progress of a preparation, as JSON lines on the pipe that the launcher inherits to us."""

import contextlib
import json
import os
import time
from typing import Any

PROGRESS_FD = "CONVOY_PROGRESS_FD"
_EVERY_S = 0.2


def send(message: dict[str, Any]) -> None:
    """Write one line to the progress pipe, if there is one."""
    descriptor = os.environ.get(PROGRESS_FD)
    if descriptor is not None:
        with contextlib.suppress(OSError):  # nobody reads any more
            os.write(int(descriptor), (json.dumps(message) + "\n").encode())


class Progress:
    """Counts examples and tells how it goes, not more often than is worth seeing."""

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        self._told = 0.0

    def advance(self, count: int) -> None:
        """`count` more examples are done."""
        self.done += count
        now = time.monotonic()
        if now - self._told < _EVERY_S and self.done < self.total:
            return
        self._told = now
        rate = self.done / max(now - self._started, 1e-9)
        line = {"kind": "progress", "phase": "preparing", "step": self.done, "steps": self.total}
        send(line | {"examples_per_s": round(rate, 1), "eta_s": round((self.total - self.done) / max(rate, 1e-9), 1)})
