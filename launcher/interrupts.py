"""Ctrl-C, SIGTERM and `job=stop`: asked once, the workers save; Ctrl-C twice, everything is killed at once.

Before there are workers nothing is worth saving: then the first signal ends everything at once.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from conf.exit_codes import INTERRUPTED, STOPPED

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: How long cleaning up may take undisturbed by further signals.
CLEAN_UP_S = 5.0


class Interrupts:
    """Whether somebody asked the driver to stop, and how."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.exit_code = STOPPED
        self._is_saving_worth_while = False
        self._undisturbed_until = 0.0

    def arm(self) -> None:
        """Take the signals. Ray has handlers of its own and sets them when it connects: call this again afterwards."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def workers_start(self) -> None:
        """From now on a first signal asks the workers to save."""
        self._is_saving_worth_while = True

    @property
    def kills_at_once(self) -> bool:
        """Whether nothing was started yet that a stop should wait for."""
        return not self._is_saving_worth_while

    def request(self, reason: str) -> None:
        """Ask for a stop, as a signal would."""
        self.reason = self.reason or reason

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if time.monotonic() < self._undisturbed_until:
            return
        if self.reason is not None and number == signal.SIGINT:
            self._raise()
        if self.reason is None:
            self.exit_code = INTERRUPTED if number == signal.SIGINT else STOPPED
        self.request("Ctrl-C" if number == signal.SIGINT else "SIGTERM")
        if self.kills_at_once:
            with contextlib.suppress(OSError):  # not by the console, which this may have interrupted in a line
                os.write(1, f"{self.reason}: stopping\n".encode())
            self._raise()

    def _raise(self) -> None:
        self._undisturbed_until = time.monotonic() + CLEAN_UP_S
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """The signals are ours inside the block, and as they were after it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = Interrupts()
    taken.arm()
    try:
        yield taken
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
