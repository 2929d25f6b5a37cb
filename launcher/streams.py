"""Standard streams that nobody reads: a job goes on without them, as under `| head -1` or `>&-`."""

import os
import sys
from typing import TextIO

STANDARD = (0, 1, 2)


def open_all() -> None:
    """Give the process the standard streams that it was started without. Call it first.

    Else the next file that is opened, such as a socket of Ray's, would take the number, and what is printed.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def give_up(stream: TextIO) -> None:
    """Nobody reads this stream any more: what is still to come, and what is in its buffer, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say(stream: TextIO, text: str) -> None:
    """Write all of `text` now, if anybody reads."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        give_up(stream)
