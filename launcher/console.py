"""What a person sees: a progress bar on a terminal, a plain line every few seconds elsewhere, and the last words."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as Rich
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from launcher import streams
from launcher.rendezvous import ranks

EVERY_S = 5.0
#: Off a terminal a new phase is said sooner, but not each of the short evaluations of a small job.
PHASE_S = 1.0
#: Columns of a terminal that has room for steps and epochs too.
WIDE = 110


class _Screen(Rich):
    """Rich's console, which ends the process when its reader leaves; ours goes on unread."""

    def on_broken_pipe(self) -> None:
        """The reader has left."""
        self.quiet = True
        streams.give_up(sys.stdout)


class Console:
    """Says things to the person who started the job. The only module that prints."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._rich = _Screen(highlight=False, soft_wrap=True)
        self._every_s = every_s
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._last_phase: str | None = None
        self._unsaid: str | None = None
        self._said: str | None = None

    def say(self, text: str) -> None:
        """A line of its own, above the progress bar if there is one."""
        self._rich.print(text, markup=False)

    def progress(self, told: Mapping[str, Any]) -> None:
        """Where the chief is. Called often; shows what is worth showing."""
        if not told:
            return
        if self._rich.is_terminal:
            self._draw(told)
            return
        now, phase = time.monotonic(), told.get("phase")
        self._unsaid = progress_line(told)
        waited = now - self._last_line
        if waited >= self._every_s or (phase != self._last_phase and waited >= PHASE_S):
            self._last_line, self._last_phase = now, phase
            self._say_progress()

    def rest(self) -> None:
        """End the progress display; the last state stays to be read."""
        if self._bar:
            self._bar.stop()
            self._bar = None
        self._say_progress()
        self._last_phase = None

    def _say_progress(self) -> None:
        if self._unsaid and self._unsaid != self._said:
            self.say(self._unsaid)
        self._said, self._unsaid = self._unsaid or self._said, None

    def _draw(self, told: Mapping[str, Any]) -> None:
        is_wide = self._rich.width >= WIDE
        if self._bar is None:
            texts = TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")
            middle = (BarColumn(30), TaskProgressColumn()) if is_wide else ()
            self._bar = Progress(texts[0], *middle, texts[1], console=self._rich)
            self._bar.add_task("", numbers="", total=None)
            self._bar.start()
        done, total = counts(told)
        said = [*(position(told) if is_wide else position(told)[:1]), *numbers(told)]
        phase = str(told.get("phase", ""))
        self._bar.update(self._bar.task_ids[0], description=phase, completed=done, total=total, numbers="  ".join(said))


def refuse(error: Exception) -> None:
    """Say on stderr what is wrong."""
    streams.say(sys.stderr, f"{error}\n")


def show(text: str) -> None:
    """Say an answer on stdout."""
    streams.say(sys.stdout, f"{text}\n")


def progress_line(told: Mapping[str, Any]) -> str:
    """The plain line for places without a terminal."""
    return "  ".join([str(told.get("phase", "")), *position(told), *numbers(told)])


def counts(told: Mapping[str, Any]) -> tuple[int, int | None]:
    """How much is done, and of how much."""
    return int(told.get("step") or 0), told.get("steps")


def position(told: Mapping[str, Any]) -> list[str]:
    """Steps and epochs, as far as they are known."""
    done, total = counts(told)
    words = [f"{done}/{total}"] if total else []
    if told.get("epochs"):
        words.append(f"epoch {told.get('epoch') or 0:.1f}/{told['epochs']:.1f}")
    if told.get("training_phases"):
        words.append(f"phase {told.get('training_phase')}/{told['training_phases']}")
    return words


def numbers(told: Mapping[str, Any]) -> list[str]:
    """Loss, accuracy, speed and the time that is left, as far as they are known."""
    words = [f"{name} {told[name]:.4f}" for name in ("loss", "accuracy") if told.get(name) is not None]
    if told.get("examples_per_s"):
        words.append(f"{told['examples_per_s']:,.0f} examples/s")
    if told.get("eta_s") is not None:
        words.append(f"ETA {duration(told['eta_s'])}")
    return words


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}"


def failure(reason: str, log: str, tail: Sequence[str], others: Mapping[int, str]) -> str:
    """One message for a job that failed: the first cause first, then the other ranks, then what its log ends with."""
    lines = [f"failed - {reason}"]
    grouped: dict[str, list[int]] = {}
    for rank, message in others.items():
        grouped.setdefault(message.splitlines()[0] if message else "", []).append(rank)
    same = [message for message in grouped if message and f": {message}" in reason]
    lines += [f"  the same on {ranks(grouped.pop(message))}" for message in same]
    lines += [f"  then {ranks(members)}: {message}" for message, members in grouped.items()]
    if tail:
        lines.append(f"  the last lines of {log}")
        lines += [f"    {line}" for line in tail]
    else:
        lines.append(f"  its log: {log}")
    return "\n".join(lines)
