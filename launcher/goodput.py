"""What became of the wall time of a run, over all its attempts. Events in, seconds by part out. Pure.

The time of a run is that of the commands that drove it, from their start to their outcome; the last event stands for
the end of a driver that was killed. Time in which nobody drove it is none. Inside an attempt the chief's own ledger
(`trainer/ledger.py`) says what its time was spent on, and what it could not tell any more is found by subtraction, so
the parts add up to the whole.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

#: The parts, and what a person reads.
PARTS = {
    "training": "useful training",
    "input_wait": "waiting for input",
    "checkpoint": "checkpoints",
    "evaluation": "evaluation",
    "start_up": "start-up",
    "lost_work": "lost work (steps done again)",
    "restart": "restarts",
    "capacity": "waiting for capacity",
    "preparing": "preparing data, or trying micro-batches",
    "other": "the rest (curves, export, ending)",
}
#: In the names of the modules that attempts before the training run.
BEFORE_TRAINING = ("prepare", "probe")
ENDS = ("succeeded", "failed", "stopped")


@dataclass(frozen=True)
class Goodput:
    """Seconds by part; they add up to `wall_s`."""

    wall_s: float
    parts: Mapping[str, float]
    attempts: int
    steps: int  # that stand
    lost_steps: int

    @property
    def share(self) -> float:
        """The share of the time that went into training that stands."""
        return self.parts["training"] / self.wall_s if self.wall_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The report."""
        parts = {name: round(seconds, 3) for name, seconds in self.parts.items()}
        counts = {"attempts": self.attempts, "steps": self.steps, "lost_steps": self.lost_steps}
        return {"wall_s": round(self.wall_s, 3), "goodput": round(self.share, 4), "parts_s": parts, **counts}


@dataclass
class _Trained:
    """What one attempt trained, and how much of it stands."""

    first: int
    last: int
    training_s: float
    input_wait_s: float
    kept: int = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self.last

    def lose_from(self, step: int) -> None:
        """Everything behind `step` is done again."""
        self.kept = min(self.kept, max(step, self.first))

    @property
    def share(self) -> float:
        """How much of it stands."""
        steps = self.last - self.first
        return (self.kept - self.first) / steps if steps > 0 else 1.0


@dataclass
class _Attempt:
    """One attempt on its way."""

    is_preparing: bool
    waits_as: str  # what its start-up is called
    told: float | None = None  # when its ledger was last heard of
    spent: Mapping[str, float] = field(default_factory=dict)


def goodput(events: Iterable[Mapping[str, Any]]) -> Goodput:
    """Add up the events of a run. A run that is under way is counted until its last event."""
    book = _Book()
    for event in events:
        book.take(event, str(event.get("kind")), seconds_of(event))
    return book.close()


def table(found: Goodput) -> list[str]:
    """What `job=status` shows."""
    steps = f"{found.steps} steps" + (f", {found.lost_steps} more lost" if found.lost_steps else "")
    attempts = f"{found.attempts} attempt{'s' * (found.attempts != 1)}"
    first = f"goodput   {found.share:.0%} of {found.wall_s:.1f} s in {attempts} ({steps})"
    rows = [(words, found.parts[name]) for name, words in PARTS.items() if found.parts[name] >= 0.05]
    return [first, *(f"  {words:<34}{seconds:>10.1f} s {seconds / found.wall_s:>7.1%}" for words, seconds in rows)]


def seconds_of(event: Mapping[str, Any]) -> float:
    """When it happened, in seconds since the epoch; 0 where that cannot be read."""
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return 0.0


class _Book:
    """Reads the events one by one. `_mode` is what the time since `_since` is spent on."""

    def __init__(self) -> None:
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._trained: list[_Trained] = []
        self._attempt: _Attempt | None = None
        self._mode: str | None = None  # None while nobody drives the run
        self._waits_as = "start_up"  # what the time before the next attempt is
        self._since = self._last = 0.0
        self._attempts = 0
        self._is_other_task = False
        self._saved = 0

    def take(self, event: Mapping[str, Any], kind: str, at: float) -> None:
        """One event. Those of a task beside the training say whose they are, and nothing of the training's time."""
        if event.get("task"):
            return
        details = event.get("details") or {}
        if kind == "command":
            self._end_session(self._last)
            self._is_other_task = details.get("job") != "train"
            if not self._is_other_task:
                self._open(at - max(0.0, float(details.get("age_s", 0.0))))
        if self._is_other_task:
            self._last = at
            return
        if self._mode is None and kind == "attempt_started":  # of a version that told no command
            self._open(at)
        self._last = max(self._last, at)
        if kind == "attempt_started":
            self._begin(details, at)
        elif kind == "spent" and self._attempt:
            self._attempt.spent, self._attempt.told = details, at
        elif kind == "checkpoint_saved":
            self._saved = max(self._saved, int(details.get("step", 0)))
        elif kind == "attempt_ended":
            self._settle(at, details)
        elif kind in ("capacity_missing", "capacity_found") and self._mode is not None and self._attempt is None:
            self._spend(at, "capacity" if kind == "capacity_missing" else self._waits_as)
        elif kind in ENDS and self._mode is not None:
            self._mode = "other" if self._mode == "restart" else self._mode  # there was no other attempt
            self._end_session(at)
            if kind == "failed":
                self._lose_from(self._saved)

    def close(self) -> Goodput:
        """The sums."""
        self._end_session(self._last)
        steps = lost = 0
        parts = dict(self._parts)
        for trained in self._trained:
            parts["training"] += trained.training_s * trained.share
            parts["input_wait"] += trained.input_wait_s * trained.share
            parts["lost_work"] += (trained.training_s + trained.input_wait_s) * (1 - trained.share)
            steps, lost = steps + trained.kept - trained.first, lost + trained.last - trained.kept
        return Goodput(sum(parts.values()), parts, self._attempts, steps, lost)

    def _spend(self, at: float, then: str) -> None:
        """The time until now goes to the mode at hand; what comes is called `then`."""
        if self._mode is not None:
            self._parts[self._mode] += max(0.0, at - self._since)
        self._since, self._mode = max(at, self._since), then

    def _open(self, at: float) -> None:
        self._mode = self._waits_as = "start_up"
        self._since = at

    def _begin(self, details: Mapping[str, Any], at: float) -> None:
        if self._attempt:  # its end was never told
            self._settle(at, {})
        self._spend(at, self._waits_as)
        self._attempt = _Attempt(
            any(word in str(details.get("module", "")) for word in BEFORE_TRAINING), self._waits_as
        )
        self._attempts += not self._attempt.is_preparing

    def _settle(self, at: float, details: Mapping[str, Any]) -> None:
        """The attempt is over: give each of its seconds to a part."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        whole = max(0.0, at - self._since)
        self._since = max(at, self._since)
        if attempt.is_preparing:
            self._parts["preparing"] += whole
            return
        self._mode = self._waits_as = "restart"
        spent = dict(details.get("spent") or attempt.spent)
        if not spent:
            self._parts[attempt.waits_as] += whole
            return
        self._shares(attempt, spent, whole, at, details)

    def _shares(
        self, attempt: _Attempt, spent: dict[str, float], whole: float, at: float, details: Mapping[str, Any]
    ) -> None:
        steps = {name: int(spent.pop(name, 0)) for name in ("from_step", "first_steps", "step")}
        known = sum(spent.values())
        scale = min(1.0, whole / known) if known > 0 else 1.0  # clocks of two hosts differ a little
        spent = {name: seconds * scale for name, seconds in spent.items()}
        unknown = max(0.0, whole - sum(spent.values()))
        silent = details.get("silent_s")
        if silent is None:
            silent = at - attempt.told if attempt.told is not None else 0.0
        after = min(max(0.0, float(silent)), unknown)
        self._parts["other" if details.get("kind") in ("done", "stopped") else "restart"] += after
        first, training = spent.pop("first_loop", 0.0), spent.pop("training", 0.0)
        useful = _useful(first, steps, training)
        self._parts[attempt.waits_as] += unknown - after + spent.pop("start_up", 0.0) + first - useful
        waited = spent.pop("input_wait", 0.0)
        self._lose_from(steps["from_step"])
        self._trained.append(_Trained(steps["from_step"], steps["step"], training + useful, waited))
        for name, seconds in spent.items():
            self._parts[name if name in PARTS else "other"] += seconds

    def _lose_from(self, step: int) -> None:
        for trained in self._trained:
            trained.lose_from(step)

    def _end_session(self, at: float) -> None:
        if self._attempt:
            self._settle(at, {})
        if self._mode is not None:
            self._spend(at, "other")
        self._mode = None


def _useful(first: float, steps: Mapping[str, int], training: float) -> float:
    """Of the first call of the loop, which compiles, what its steps took: as long as later ones."""
    later = steps["step"] - steps["from_step"] - steps["first_steps"]
    return min(first, steps["first_steps"] * training / later) if later > 0 else 0.0
