"""job=find_lr: a learning-rate range test on the job's cluster; writes report/find_lr.json and a plot beside it."""

from typing import Any

from conf.phases import rate_key
from conf.schema import JobSpec
from launcher.compose import Asked
from launcher.farewell import typed_again
from launcher.measurement import measure
from storage.run_dir import FIND_LR, FIND_LR_PLOT, RunDir

#: Words that are this verb's own, and not of the training that follows.
OWN = ("job", "run_id", "dry_run", "find_lr")


def run(asked: Asked) -> int:
    """Try rates, and say which to take."""

    def told(job: JobSpec, run_dir: RunDir) -> list[str]:
        report = run_dir.read_json(FIND_LR)
        places = [f"plot    {run_dir.url}/{FIND_LR_PLOT}", f"report  {run_dir.url}/{FIND_LR}"]
        return [*lines(report), *places, *next_line(asked, job, report["suggestion"], run_dir.exists())]

    return measure(asked, told, until="all rates were tried")


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
