"""Whether a stop, or a pre-emption, would be over within `cluster.grace_s`: as far as saves and steps show.

Workers look for a wish to stop between two calls of the compiled loop and agree on it in the next one. So a stop takes
up to two calls, and a save.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from launcher.console import Console
from launcher.journal import Journal
from launcher.messages import WorkerStatus

CALLS = 2


class Grace:
    """Warns once of saves that take too long by themselves, and once of steps that leave them too little time."""

    def __init__(self, grace_s: float, journal: Journal, console: Console):
        self._grace_s, self._journal, self._console = grace_s, journal, console
        self._save_s = 0.0  # that the last save took
        self._has_warned: set[str] = set()

    def note(self, attempt: int, chief: WorkerStatus) -> None:
        """Take in what the chief tells of its saves and of its steps."""
        for event in chief.events:
            if event.get("event") == "checkpoint_saved":
                self._save_s = _seconds(event.get("details"), "seconds")
                self._judge_save(attempt)
        self._judge_steps(attempt, _seconds(chief.progress.get("pace"), "loop_s"))

    def _judge_save(self, attempt: int) -> None:
        if self._save_s <= self._grace_s:
            return
        cure = f"give cluster.grace_s more than {self._save_s:.0f}, or a faster storage.root"
        law = f"a checkpoint took {self._save_s:.1f} s to save, and a stop or a pre-emption has"
        self._warn("slow_save", attempt, law, cure, seconds=self._save_s)

    def _judge_steps(self, attempt: int, loop_s: float) -> None:
        needed_s = CALLS * loop_s + self._save_s
        if needed_s <= self._grace_s or self._save_s > self._grace_s:
            return
        calls = f"{CALLS} calls of the compiled loop, {loop_s:.1f} s each"
        law = f"a stop or a pre-emption may take {needed_s:.1f} s ({calls}, and a save), and it has"
        cure = f"give cluster.grace_s {ceil(needed_s)} or more, or, where it is not 1, a smaller trainer.steps_per_loop"
        self._warn("slow_stop", attempt, law, cure, seconds=round(needed_s, 3), loop_s=loop_s, save_s=self._save_s)

    def _warn(self, kind: str, attempt: int, law: str, cure: str, **numbers: float) -> None:
        if kind in self._has_warned:
            return
        self._has_warned.add(kind)
        self._journal.event(kind, attempt, **numbers, grace_s=self._grace_s)
        self._console.say(f"warning: {law} cluster.grace_s={self._grace_s:g} - {cure}")


def _seconds(told: Any, name: str) -> float:
    return float(told.get(name) or 0.0) if isinstance(told, Mapping) else 0.0
