"""Ctrl-C, SIGTERM and `job=stop`: asked once, the workers save; Ctrl-C twice, everything is killed at once.

Before there are workers nothing is worth saving: then the first signal ends everything at once.

Python swallows what a handler raises where nobody could catch it (after a fork, in a finaliser) and tells of it on the
console. logging's lock is both: its holder is run after each fork, and one that is broken off keeps it for ever. So the
handler waits while logging is at work, and what was swallowed all the same is raised once more.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from conf.exit_codes import INTERRUPTED, STOPPED

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: How long cleaning up may take undisturbed by further signals.
CLEAN_UP_S = 5.0
#: How long until it is tried again where raising would not have been heard.
AGAIN_S = 0.01


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

    def swallowed(self) -> None:
        """What was raised for a signal ended nowhere: raise it again."""
        self._undisturbed_until = 0.0
        self._handle_later(signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() < self._undisturbed_until:
            return
        if frame is not None and frame.f_code.co_filename == logging.__file__:
            self._handle_later(number)
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

    def _handle_later(self, number: int) -> None:
        signal.signal(signal.SIGALRM, lambda _, frame: self._handle(number, frame))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def _raise(self) -> None:
        self._undisturbed_until = time.monotonic() + CLEAN_UP_S
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """The signals are ours inside the block, and as they were after it."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    hook = sys.unraisablehook
    taken = Interrupts()

    def heard(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            taken.swallowed()
        else:
            hook(unraisable)

    sys.unraisablehook = heard
    taken.arm()
    try:
        yield taken
    finally:
        if signal.getsignal(signal.SIGALRM) is not before[signal.SIGALRM]:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
