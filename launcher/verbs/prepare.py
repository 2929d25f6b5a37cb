"""job=prepare: write the data as TFRecords and stop."""

from conf import rules
from conf.data_url import data_url
from launcher import early
from launcher.compose import Asked
from launcher.console import Console, show
from launcher.drive import Drive, needs_data
from launcher.farewell import failure_text
from launcher.gate import refuse_at_once
from launcher.interrupts import interrupts
from launcher.plan import plan
from launcher.saved import check_writable, is_new, new_run_id, open_run


def run(asked: Asked) -> int:
    """Prepare, or say that it is done already."""
    run_dir, job = open_run(asked, asked.job.run_id or new_run_id(asked.job))
    rules.check(job)
    early.check(job)
    early.check_source(job)
    if job.dry_run:
        show(plan(job, run_dir))
        return 0
    url = data_url(job)
    if not needs_data(job):
        show(f"{job.data.name} is prepared already: {url}")
        return 0
    refuse_at_once(job.cluster)
    check_writable(run_dir, job)
    console, began = Console(), is_new(run_dir)
    with interrupts() as stopper:
        found = Drive(job, run_dir, console, stopper).run()
    succeeded = found.state == "succeeded"
    if found.state != "failed" and began:
        run_dir.remove()  # it is no run
    console.say(f"prepared {job.data.name}: {url}" if succeeded else failure_text(run_dir, found))
    return found.exit_code
