"""What the workers of an attempt tell, written into the events and shown to whoever watches."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.console import Console
from launcher.grace import Grace
from launcher.journal import Journal, Spent
from launcher.messages import WorkerStatus
from launcher.recovery import trained_step
from launcher.rendezvous import ranks
from launcher.straggler import Straggler, Stragglers


class Chronicle:
    """Takes in statuses, attempt after attempt. `step` is the furthest that the training has come."""

    def __init__(self, grace_s: float, journal: Journal, console: Console, is_preparing: bool):
        self.step = 0
        self._journal, self._console, self._is_preparing = journal, console, is_preparing
        self._grace = Grace(grace_s, journal, console)
        self._spent = Spent(journal)
        self._has_told_data = False
        self._said: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """A new attempt begins."""
        self._spent.forget()
        self._stragglers = Stragglers()

    @property
    def spent(self) -> dict[str, Any]:
        """The chief's last account of its time, and how long ago it was told; nothing if there was none."""
        return self._spent.last()

    def note(self, attempt: int, statuses: Mapping[int, WorkerStatus]) -> None:
        """Write the events down and show the chief's progress."""
        for rank, status in statuses.items():
            for event in status.events:
                self._journal.told(attempt, rank, event)
                if event.get("event") == "prepared":
                    self._tell_prepared(event)
                if event.get("event") == "restored" and rank == 0:
                    self._tell_broken(event.get("details") or {})
                if event.get("event") in ("weights_loaded", "xla_on_cpu", "deterministic_on_gpu") and rank == 0:
                    self._say_words(event)
        if self._is_preparing:
            self._console.progress(together([status.progress for status in statuses.values()]))
            return
        chief = statuses.get(0)
        if chief is not None:
            self._grace.note(attempt, chief)
        if chief is not None and chief.progress:
            self.step = max(self.step, trained_step(chief) or 0)
            self._spent.note(attempt, chief)
            self._note_stragglers(attempt, statuses)
            self._console.progress(chief.progress)

    def _note_stragglers(self, attempt: int, statuses: Mapping[int, WorkerStatus]) -> None:
        found = self._stragglers.note(statuses)
        if isinstance(found, Straggler):
            numbers = {"own_step_s": found.own_step_s, "others_step_s": found.others_step_s}
            self._journal.event("straggler", attempt, found.rank, **numbers)
            words = f"its part of a step takes {found.own_step_s:.3g} s, the others' {found.others_step_s:.3g} s"
            self._console.say(f"the others wait for {ranks([found.rank])}: {words}")
        elif found is not None:
            self._journal.event("straggler_over", attempt, found)

    def _tell_prepared(self, event: Mapping[str, Any]) -> None:
        """What the data is like, once, whichever host was the last to finish."""
        if event.get("details", {}).get("words") and not self._has_told_data:
            self._has_told_data = True
            self._say_words(event)

    def _tell_broken(self, restored: Mapping[str, Any]) -> None:
        """What was passed over: the weights are older than a person may think."""
        for problem in restored.get("broken") or ():
            if problem not in self._said:
                self._said.add(problem)
                self._console.say(f"warning: {problem} - that of step {restored.get('step')} is taken")

    def _say_words(self, event: Mapping[str, Any]) -> None:
        """Once: a restart has nothing new to say."""
        words = "\n".join(event["details"]["words"])
        if words not in self._said:
            self._said.add(words)
            self._console.rest()
            self._console.say(words)


def together(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The progress of hosts that share a preparation, as one."""
    known = [each for each in told if each.get("steps") is not None]
    if not known:
        return {}
    sums = {name: sum(each.get(name) or 0 for each in known) for name in ("step", "steps", "examples_per_s")}
    return {"phase": "preparing", **sums, "eta_s": max(each.get("eta_s") or 0.0 for each in known)}
