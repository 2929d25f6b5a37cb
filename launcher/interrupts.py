"""Ctrl-C, SIGTERM and `job=stop`: asked once, the workers save; Ctrl-C twice, everything is killed at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from conf.exit_codes import INTERRUPTED, STOPPED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Whether somebody asked the driver to stop, and how."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.exit_code = STOPPED

    def arm(self) -> None:
        """Take the signals. Ray has handlers of its own and sets them when it connects: call this again afterwards."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def request(self, reason: str) -> None:
        """Ask for a stop, as a signal would."""
        self.reason = self.reason or reason

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.reason is None:
            self.exit_code = INTERRUPTED if number == signal.SIGINT else STOPPED
        self.request("Ctrl-C" if number == signal.SIGINT else "SIGTERM")


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
