"""What job=status shows of a sweep, from its own run directory and those of its trials."""

import contextlib
import time
from collections import Counter

from conf.schema import SweepSpec
from launcher import sweep_table
from launcher.lease import is_alive, read_owner
from launcher.trial import Result, Trial, result_of
from storage.run_dir import SWEEP, SWEEP_REPORT, RunDir
from storage.store import NotStored, StoreError

#: States of trials that a sweep does not take up again by itself.
ENDED = {"succeeded", "failed", "refused"}


def sweep_at(root: str, run_id: str | None) -> RunDir | None:
    """The folder of a sweep; None where this is none. Of a store that cannot be read, others say so."""
    with contextlib.suppress(StoreError):
        run_dir = RunDir(root, str(run_id))
        if not run_dir.exists() and run_dir.store.exists(SWEEP):
            return run_dir
    return None


def trial_id(sweep_id: str, number: int) -> str:
    """The run_id of a sweep's trial, counted from 1."""
    return f"{sweep_id}-{number:03d}"


def describe(run_dir: RunDir, root: str) -> list[str]:
    """The lines that `job=status` shows: who drives it, how many trials have ended how, the table as it stands."""
    now, metric, reported = time.time(), SweepSpec().metric, {}
    with contextlib.suppress(NotStored):  # it has hardly begun
        report = run_dir.read_json(SWEEP_REPORT)
        metric, reported = report["metric"], {row["run_id"]: row for row in report["trials"]}
    found = []
    for number, values in enumerate(run_dir.read_json(SWEEP)["trials"], start=1):
        trial = Trial(number, trial_id(run_dir.run_id, number), values, ())
        row = reported.get(trial.run_id, {})
        found.append((trial, _now(trial, root, row, now)))
    counts = Counter(result.state for _, result in found)
    owner = read_owner(run_dir)
    state = "ended" if counts.keys() <= ENDED else "interrupted"
    if owner is not None and is_alive(owner, now):
        state = f"running (process {owner.pid} on {owner.host})"
    trials = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    heading = [f"sweep     {run_dir.url}", f"state     {state}", f"trials    {len(found)}: {trials}"]
    return [*heading, *sweep_table.lines(sweep_table.ranked(found, metric), metric)]


def _now(trial: Trial, root: str, row: dict[str, str], now: float) -> Result:
    """What its run directory says by now; what never got one, the sweep's last report knows."""
    owner = read_owner(RunDir(root, trial.run_id))
    if owner is not None and is_alive(owner, now):
        return Result("running")
    result = result_of(trial, root)
    if result.state == "unfinished" and row.get("state") in ("refused", "failed"):
        return Result(row["state"], reason=row["reason"])
    return result
