"""job=find_lr: a learning-rate range test on the job's cluster; writes report/find_lr.json and a plot beside it."""

from typing import Any

from conf import rules
from conf.phases import rate_key
from conf.schema import JobSpec
from launcher import early
from launcher.compose import Asked
from launcher.console import Console, show
from launcher.drive import Drive
from launcher.farewell import failure_text, typed_again
from launcher.gate import refuse_at_once
from launcher.interrupts import interrupts
from launcher.plan import plan
from launcher.saved import check_writable, discard, new_run_id, open_run
from storage.run_dir import FIND_LR, FIND_LR_PLOT

#: Words that are this verb's own, and not of the training that follows.
OWN = ("job", "run_id", "dry_run", "find_lr")


def run(asked: Asked) -> int:
    """Try rates, and say which to take. A run that exists keeps everything but its last report of this kind."""
    run_dir, job = open_run(asked, asked.job.run_id or new_run_id(asked.job))
    rules.check(job)
    early.check(job)
    if job.dry_run:
        show(plan(job, run_dir))
        return 0
    refuse_at_once(job.cluster)
    check_writable(run_dir, job)
    console = Console()
    with interrupts() as stopper:
        found = Drive(job, run_dir, console, stopper).run()
    console.rest()
    if found.state == "succeeded":
        report = run_dir.read_json(FIND_LR)
        places = [f"plot    {run_dir.url}/{FIND_LR_PLOT}", f"report  {run_dir.url}/{FIND_LR}"]
        console.say(
            "\n".join([*lines(report), *places, *next_line(asked, job, report["suggestion"], run_dir.exists())])
        )
        return found.exit_code
    if found.state == "stopped":
        console.say("stopped before all rates were tried; nothing is written")
        discard(run_dir)
    else:
        console.say(failure_text(run_dir, found))
    return found.exit_code


def lines(report: dict[str, Any]) -> list[str]:
    """The report for a person."""
    tried, what = report["rates"], f"{report['model']} on {report['data']}, {report['optimizer']}"
    said = [f"{what}, batch {report['global_batch_size']}: {report['end']}"]
    if tried:
        said.append(f"tried {len(tried)} rates from {tried[0]:.3g} to {tried[-1]:.3g}")
    rules_of_thumb = {"steepest": "the loss falls steepest at", "tenth_of_least": "a tenth of where it is least"}
    for name, words in rules_of_thumb.items():
        if report[name] is not None:
            said.append(f"{words:<30}{report[name]:>10.3g}")
    if report["suggestion"] is not None:
        said.append(f"{'suggested':<30}{report['suggestion']:>10.3g}")
    return [*said, *([report["note"]] if report["note"] else [])]


def next_line(asked: Asked, job: JobSpec, rate: float | None, existed: bool) -> list[str]:
    """What to type to train at this rate."""
    if rate is None:
        return []
    word = f"{rate_key(job.trainer, job.find_lr.phase - 1)}={rate:.3g}"
    if existed:
        return [f"train with it:  a new run with the words of {job.run_id} and {word}"]
    return [f"train with it:  {typed_again(asked.words, OWN, word)}"]
