"""job=status: how run_id is doing, from its run directory alone."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from launcher import sweep_status
from launcher.compose import Asked
from launcher.console import show
from launcher.goodput import goodput, seconds_of, table
from launcher.lease import is_alive, read_owner
from launcher.saved import existing_run, outcome
from launcher.sweep_status import sweep_at
from storage.run_dir import RunDir

LAST_EVENTS = 8
#: Events for programs alone.
QUIET = ("spent", "command")


def run(asked: Asked) -> int:
    """Say state, step, attempts and the last events; of a sweep, how its trials are doing."""
    root = asked.job.storage.root
    if sweep := sweep_at(root, asked.job.run_id):
        show("\n".join(sweep_status.describe(sweep, root)))
        return 0
    run_dir, _ = existing_run(asked)
    show("\n".join(describe(run_dir)))
    return 0


def describe(run_dir: RunDir) -> list[str]:
    """The lines that `job=status` shows."""
    events, now = list(run_dir.events()), time.time()
    ended, owner = outcome(run_dir), read_owner(run_dir)
    state = ended.get("state", "interrupted" if events else "not begun")
    if owner is not None and is_alive(owner, now):
        state = f"running (process {owner.pid} on {owner.host})"
    attempts = max([event.get("attempt") or 0 for event in events], default=0)
    steps = [(event.get("details") or {}).get("step") for event in events]
    step = max([number for number in steps if isinstance(number, int)], default=0)
    lines = [f"run       {run_dir.url}", f"state     {state}", f"step      {step}", f"attempts  {attempts}"]
    if events:
        lines.append(f"last sign {_age(seconds_of(events[-1]), now)}")
    if ended.get("reason") and not state.startswith("running"):
        lines.append(f"reason    {ended['reason']}")
    lines += _straggler([event for event in events if not event.get("task")])
    spent = goodput(events)
    lines += table(spent) if spent.wall_s and spent.steps + spent.lost_steps else []
    shown = [event for event in events if event.get("kind") not in QUIET][-LAST_EVENTS:]
    return [*lines, *(_line(event, now) for event in shown)]


def _straggler(events: list[dict[str, Any]]) -> list[str]:
    """The worker that the others wait for, if there is one now."""
    telling = [event for event in events if event.get("kind") in ("straggler", "straggler_over", "attempt_ended")]
    if not telling or telling[-1].get("kind") != "straggler":
        return []
    rank, details = telling[-1].get("rank"), telling[-1].get("details") or {}
    own, others = float(details.get("own_step_s", 0.0)), float(details.get("others_step_s", 0.0))
    return [f"straggler rank {rank}: its part of a step takes {own:.3g} s, the others' {others:.3g} s"]


def _line(event: Mapping[str, Any], now: float) -> str:
    rank = "" if event.get("rank") is None else f" rank {event['rank']}"
    told = {name: value for name, value in (event.get("details") or {}).items() if name not in ("spent", "silent_s")}
    details = ", ".join(f"{name} {_short(name, value, now)}" for name, value in told.items())
    return f"  {str(event.get('time', ''))[:19]}  {event.get('kind')}{rank}  {details}".rstrip()


def _short(name: str, value: Any, now: float) -> str:
    if name == "time" and isinstance(value, float):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%S} ({_age(value, now)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _age(then: float, now: float) -> str:
    passed = max(now - then, 0.0)
    units = ((86400, "days"), (3600, "h"), (60, "min"))
    return next(
        (f"{passed / length:.0f} {unit} ago" for length, unit in units if passed >= 2 * length), f"{passed:.0f} s ago"
    )
