"""A job that measures something of a training on its own cluster, and leaves a report."""

from collections.abc import Callable, Sequence

from conf import rules
from conf.schema import JobSpec
from launcher import early
from launcher.compose import Asked
from launcher.console import Console, show
from launcher.drive import Drive
from launcher.farewell import failure_text
from launcher.gate import refuse_at_once
from launcher.interrupts import interrupts
from launcher.journal import Journal
from launcher.lease import Lease
from launcher.plan import plan
from launcher.saved import check_writable, is_new, new_run_id, open_run
from storage.run_dir import RunDir


def measure(asked: Asked, told: Callable[[JobSpec, RunDir], Sequence[str]], until: str) -> int:
    """Run the job; the exit code. `told` makes the lines that are said of its report.

    A run that exists keeps everything but its last report of this kind. `until` ends the sentence that is said where
    somebody stopped it: nothing is written then.
    """
    run_dir, job = open_run(asked, asked.job.run_id or new_run_id(asked.job))
    rules.check(job)
    early.check(job)
    if job.dry_run:
        show(plan(job, run_dir))
        return 0
    refuse_at_once(job.cluster)
    check_writable(run_dir, job)
    console = Console()
    with interrupts() as stopper, Lease(run_dir) as lease:  # beside a training nothing can be measured
        began = is_new(run_dir)
        Journal(run_dir).forget_stop()
        found = Drive(job, run_dir, console, stopper).run()
        if found.state == "stopped" and began:
            lease.end_with(run_dir.remove)
    console.rest()
    if found.state == "succeeded":
        console.say("\n".join(told(job, run_dir)))
    elif found.state == "stopped":
        console.say(f"stopped before {until}; nothing is written")
    else:
        console.say(failure_text(run_dir, found))
    return found.exit_code
