"""job=sweep: a training for each combination of the values that some keys are given, or for random ones.

Each trial is a run of its own, <run_id>-001 and so on. The same command again goes on: what is finished stays so.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from conf import rules
from conf.errors import BadSpec
from conf.exit_codes import DONE, FAILED
from conf.schema import JobSpec
from launcher import axes, sweep_table
from launcher.compose import GROUPS, Asked, compose, takes_whole_numbers
from launcher.console import Console, refuse, show
from launcher.farewell import command, curves
from launcher.interrupts import interrupts
from launcher.lease import Lease
from launcher.saved import check_writable, new_run_id
from launcher.sweep import NotPrepared, Sweep, slots_of
from launcher.sweep_status import trial_id
from launcher.trial import Result, Trial
from storage.run_dir import SWEEP, SWEEP_TABLE, RunDir
from storage.store import NotStored

#: Words that are the sweep's, and not its trials'.
OWN = ("job", "run_id", "dry_run", "sweep")
#: What may change when a sweep goes on: where it runs.
FREE = ("cluster", "submit", "storage")
#: Groups whose options have no name in the job.
NAMELESS = ("storage", "submit", "experiment")


def run(asked: Asked) -> int:
    """Train the trials that are not finished yet; the table at the end."""
    run_id = asked.job.run_id or new_run_id(asked.job)
    run_dir = RunDir(asked.job.storage.root, run_id)
    saved = _saved(run_dir)
    if saved and not _varied(asked.words):
        asked = compose([*saved["words"], *asked.words])
        rules.check(asked.job)
    job = replace(asked.job, run_id=run_id)
    trials = planned(asked.words, job)
    if saved:
        _refuse_another(saved, asked, trials)
    slots = slots_of([trial.job for trial in trials if trial.job], job.sweep.at_once)
    if job.dry_run:
        show("\n".join([f"{len(trials)} trials, {len(slots)} at a time", *(f"  {_line(trial)}" for trial in trials)]))
        return DONE
    check_writable(run_dir, job)
    console = Console()
    with interrupts() as stopper, Lease(run_dir):
        run_dir.write_json(SWEEP, {"words": list(asked.words), "trials": [trial.values for trial in trials]})
        console.say(f"{len(trials)} trials, {len(slots)} at a time, in {job.storage.root}")
        sweep = Sweep(run_dir, job.storage.root, job.sweep.metric, trials, slots, console, stopper)
        try:
            sweep.run()
        except NotPrepared as error:
            refuse(error)
            return error.exit_code
        except KeyboardInterrupt:
            stopper.request("Ctrl-C")
        console.rest()
        console.say("\n".join(farewell(job, run_dir, sweep.report(), stopper.reason)))
    if stopper.reason:
        return stopper.exit_code
    return DONE if any(result.state == "succeeded" for result in sweep.results.values()) else FAILED


def farewell(job: JobSpec, run_dir: RunDir, found: Sequence[tuple[Trial, Result]], stopped: str | None) -> list[str]:
    """The table, where it is, and what to type next."""
    said = [*sweep_table.lines(found, job.sweep.metric), f"table   {run_dir.url}/{SWEEP_TABLE}"]
    if stopped or any(result.state not in ("succeeded", "refused") for _, result in found):
        why = f"{stopped}: " if stopped else ""
        return [*said, f"{why}go on with what has not succeeded:  {command(job, 'job=sweep')}"]
    return [*said, f"curves and HParams:  {curves(job)}"]


def planned(words: Sequence[str], job: JobSpec) -> list[Trial]:
    """The trials of a sweep that was asked for in these words. BadSpec where none of them can be."""
    fixed, varied = axes.split(words)
    fixed = [word for word in fixed if word.lstrip("+").partition("=")[0].split(".")[0] not in OWN]
    varied = [replace(axis, is_whole=takes_whole_numbers(axis.key)) for axis in varied]
    trials, refusals = [], []
    for number, values in enumerate(axes.trials(varied, job.sweep), start=1):
        tried = (*fixed, *(f"{key}={value}" for key, value in values.items()))
        trial = Trial(number, trial_id(str(job.run_id), number), values, (*tried, *_shown(list(values))))
        try:
            composed = compose([*trial.words, f"run_id={trial.run_id}"]).job
            rules.check(composed)
            if problem := rules.model_problem(composed.trainer.model):
                raise BadSpec([problem])
            trials.append(replace(trial, job=composed))
        except BadSpec as error:
            refusals.append(error)
            trials.append(replace(trial, refused="; ".join(map(str, error.problems))))
    if len(refusals) == len(trials):
        raise refusals[0]
    return trials


def _shown(keys: Sequence[str]) -> list[str]:
    """The word that lets TensorBoard's HParams tab show what is varied."""
    named = [f"{key}.name" if key in GROUPS else key for key in keys if key not in NAMELESS]
    return [f"trainer.tensorboard.hparams=[{','.join(named)}]"] if named else []


def _varied(words: Sequence[str]) -> bool:
    return bool(axes.split(words)[1])


def _saved(run_dir: RunDir) -> dict[str, Any]:
    try:
        return dict(run_dir.read_json(SWEEP))
    except NotStored:
        return {}


def _refuse_another(saved: dict[str, Any], asked: Asked, trials: Sequence[Trial]) -> None:
    """A sweep keeps its words; a random one may become longer."""
    before, now = saved["trials"], [trial.values for trial in trials]
    words = [_learning(saved["words"]), _learning(asked.words)]
    if now[: len(before)] == before and words[0] == words[1]:
        return
    law = f"this sweep was begun with {' '.join(saved['words'])}, and a sweep keeps its words"
    raise BadSpec.of("run_id", asked.job.run_id, law, "another run_id for another sweep, or run_id alone to go on")


def _learning(words: Sequence[str]) -> list[str]:
    """The words that decide what is learnt, each once."""
    fixed, _ = axes.split(words)
    return sorted({word for word in fixed if word.partition("=")[0].split(".")[0] not in (*OWN, *FREE)})


def _line(trial: Trial) -> str:
    return f"{trial.name}{f' - {trial.refused}' if trial.refused else ''}"
