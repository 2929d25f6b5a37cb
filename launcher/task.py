"""One task on a run that exists: a single worker, its outcome told, the run's own outcome left as it is."""

import dataclasses
from collections.abc import Callable, Sequence

from conf import rules
from launcher.compose import Asked
from launcher.console import Console, show
from launcher.drive import Drive
from launcher.farewell import failure_text
from launcher.gate import refuse_at_once
from launcher.interrupts import interrupts
from launcher.plan import plan
from launcher.saved import existing_run, refuse_untrained
from storage.run_dir import RunDir


def run_task(asked: Asked, tell: Callable[[RunDir], Sequence[str]]) -> int:
    """Do the job's verb with one worker; `tell` says what came of it."""
    run_dir, job = existing_run(asked)
    job = dataclasses.replace(job, cluster=dataclasses.replace(job.cluster, workers=1, min_workers=None))
    rules.check(job)
    if job.dry_run:
        show(plan(job, run_dir))
        return 0
    refuse_untrained(run_dir)
    refuse_at_once(job.cluster)
    console = Console()
    with interrupts() as stopper:
        found = Drive(job, run_dir, console, stopper).run()
    succeeded = found.state == "succeeded"
    console.say("\n".join(tell(run_dir)) if succeeded else failure_text(run_dir, found))
    return found.exit_code
