"""Where a worker's time goes, in seconds since it began. Every moment belongs to exactly one part.

`launcher/goodput.py` adds up what the ledgers of all attempts told.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

#: What is measured; the first call of the compiled loop traces and compiles, so it is told apart. The rest of the time
#: is `start_up` before that call and `other` (curves, export, farewells) after it.
MEASURED = ("first_loop", "training", "input_wait", "checkpoint", "evaluation")


class Ledger:
    """Seconds by part, and which steps they were spent on. The clock runs from its making."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._begun = clock()
        self._trained: float | None = None  # when the first call of the loop began
        self._spent = dict.fromkeys(MEASURED, 0.0)
        self._step_parts = dict.fromkeys(("compute", "reduce", "steps"), 0.0)
        self._before = 0.0  # of what was spent, before the first call
        self._from_step = self._first_steps = self._step = 0

    def began(self, step: int) -> None:
        """The training goes on from this step."""
        self._from_step = self._step = step

    def trained(self, step: int, seconds: float, waited_s: float, own_s: float | None = None) -> None:
        """A call of the compiled loop ended at `step`; for `waited_s` of its `seconds` there was no batch.

        `own_s` went by until this worker's own gradients were there (waiting included), where that was measured.
        """
        if self._trained is None:
            self._trained = self._clock() - seconds
            self._before = sum(self._spent.values())
            self._first_steps = step - self._from_step
            self._spent["first_loop"] = seconds
        else:
            waited = min(max(waited_s, 0.0), seconds)
            self._spent["training"] += seconds - waited
            self._spent["input_wait"] += waited
            own = seconds if own_s is None else min(max(own_s, waited), seconds)
            self._step_parts["compute"] += own - waited
            self._step_parts["reduce"] += seconds - own
            self._step_parts["steps"] += step - self._step
        self._step = step

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """The block's time belongs to `part`."""
        begun = self._clock()
        try:
            yield
        finally:
            self._spent[part] += self._clock() - begun

    def parts(self) -> dict[str, float]:
        """Seconds so far, the first call of the loop left out, and the `steps` they went by in.

        `compute` is until own gradients were there, `reduce` what comes after: other workers, and the update.
        """
        return self._step_parts | {name: self._spent[name] for name in ("input_wait", "checkpoint", "evaluation")}

    def told(self) -> dict[str, float]:
        """Seconds by part until now, which add up to the whole, and the steps `from_step`, `first_steps`, `step`."""
        now, spent = self._clock(), sum(self._spent.values())
        trained = now if self._trained is None else self._trained
        start_up = trained - self._begun - (spent if self._trained is None else self._before)
        parts = self._spent | {"start_up": start_up, "other": now - self._begun - spent - start_up}
        steps = {"from_step": self._from_step, "first_steps": self._first_steps, "step": self._step}
        return {name: round(seconds, 4) for name, seconds in parts.items()} | steps
