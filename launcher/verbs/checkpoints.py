"""job=checkpoints: the checkpoints of run_id as a table; verify or prune them, or export the newest one's weights."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from launcher.compose import Asked
from launcher.console import Console, refuse, show
from launcher.errand import Failed, run_errand
from launcher.lease import Lease
from launcher.saved import existing_run
from launcher.task import run_task
from storage.run_dir import KERAS_FILES

MODULE = "trainer.inventory"
MIB = 1 << 20


def run(asked: Asked) -> int:
    """List, or export."""
    run_dir, job = existing_run(asked)
    export = job.checkpoints.export
    if export is not None:
        return run_task(asked, lambda found: [f"exported {found.url}/{KERAS_FILES[export.name]}"])
    if job.dry_run:
        also = ", and remove those that trainer.keep_* does not keep" if job.checkpoints.prune else ""
        show(f"would list {run_dir.url}/checkpoints{', checksums verified' * job.checkpoints.verify}{also}")
        return 0
    try:
        # Only the owner of a run removes anything: nobody who trains it meanwhile.
        with Lease(run_dir) if job.checkpoints.prune else nullcontext():
            found = run_errand(MODULE, job, Console(), "reading checkpoints")
    except Failed as error:
        refuse(error)
        return error.exit_code
    show("\n".join(table(found["checkpoints"], job.checkpoints.verify)))
    if job.checkpoints.prune:
        removed = ", ".join(str(step) for step in found["removed"])
        show(f"removed those of step {removed}" if removed else "there was nothing to remove")
    return 0


def table(rows: list[Mapping[str, Any]], verified: bool) -> list[str]:
    """One line a checkpoint: step, attempt, size, metrics of the last evaluation before it, whole or what is wrong."""
    if not rows:
        return ["no checkpoints yet"]
    whole = "whole, checksums verified" if verified else "whole by names and sizes"
    lines = [f"{'step':>10}  {'attempt':>7}  {'MiB':>9}  {'accuracy':>8}  {'loss':>8}"]
    for row in rows:
        metrics = row["metrics"]
        accuracy, loss = (_number(metrics.get(f"validation_{name}")) for name in ("accuracy", "loss"))
        attempt = "" if row["attempt"] is None else row["attempt"]
        size = row["size"] / MIB
        lines.append(
            f"{row['step']:>10}  {attempt:>7}  {size:>9.2f}  {accuracy:>8}  {loss:>8}  {row['problem'] or whole}"
        )
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
