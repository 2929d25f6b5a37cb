"""job=train: prepare what is not prepared, train, evaluate, export; or go on where the run stopped."""

from conf import rules
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, INTERRUPTED
from conf.schema import JobSpec
from launcher import early
from launcher.compose import Asked
from launcher.console import Console, show
from launcher.controller import Outcome
from launcher.drive import Drive, has_started, next_attempt
from launcher.farewell import farewell
from launcher.gate import refuse_at_once
from launcher.interrupts import interrupts
from launcher.journal import Journal
from launcher.lease import Lease
from launcher.plan import plan
from launcher.saved import beginning, check_writable, freeze, has_checkpoint, is_new, new_run_id, open_run, outcome
from storage.run_dir import RunDir


def run(asked: Asked) -> int:
    """Train, or say that there is nothing left to do."""
    run_dir, job = open_run(asked, asked.job.run_id or new_run_id(asked.job))
    rules.check(job)
    last = outcome(run_dir)
    if last.get("state") != "succeeded":
        early.check(job)
        if not has_checkpoint(run_dir):
            early.check_source(job)
    if job.dry_run:
        show(plan(job, run_dir))
        return 0
    if last.get("state") == "succeeded":
        why = "" if last.get("reason") in (None, "done") else f", {last['reason']}"
        show(
            f"run {job.run_id} is finished ({last.get('step')} steps{why}): {run_dir.url} - another run_id begins anew"
        )
        return 0
    refuse_at_once(job.cluster)
    return _train(job, run_dir)


def _warn_of_changes(console: Console, job: JobSpec) -> None:
    """A run that has learnt something keeps its data as it was; who changed the source since then should know."""
    changed = early.changed_source(job)
    if changed:
        console.say(f"{changed} - this run goes on with the set as it is")


def _train(job: JobSpec, run_dir: RunDir) -> int:
    console, journal = Console(), Journal(run_dir)
    check_writable(run_dir, job)
    with interrupts() as stopper, Lease(run_dir) as lease:
        refused: BadSpec | None = None
        journal.forget_stop()
        began, is_first = beginning(run_dir), is_new(run_dir)
        freeze(run_dir, job)
        console.say(began)
        _warn_of_changes(console, job)
        try:
            found = Drive(job, run_dir, console, stopper).run()
        except BadSpec as error:
            refused = error if is_first and not has_started(run_dir) else None
            found = Outcome("failed", next_attempt(run_dir) - 1, 0, str(error), BAD_SPEC)
        except KeyboardInterrupt:
            found = Outcome(
                "stopped", next_attempt(run_dir) - 1, 0, "Ctrl-C twice: nothing was running yet", INTERRUPTED
            )
        if lease.is_lost:  # how the run ends, who drives it now will say
            console.say(f"{found.reason}; another process drives run {run_dir.run_id} now")
            return found.exit_code
        journal.outcome(found.state, found.attempts, found.step, found.reason)
        journal.goodput()
        if refused is not None:
            lease.end_with(run_dir.remove)  # nothing was scheduled: nothing is left
    console.rest()
    if refused is not None:
        raise refused
    console.say(farewell(job, run_dir, found))
    return found.exit_code
