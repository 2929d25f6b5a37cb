"""The last words: what was reached, where things are, what to type next."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from conf.schema import JobSpec, StorageSpec
from launcher.console import failure
from launcher.controller import Outcome
from storage.run_dir import METRICS, SAVED_MODEL, RunDir, log_name
from storage.store import NotStored


def farewell(job: JobSpec, run_dir: RunDir, found: Outcome) -> str:
    """What a training says at its end."""
    if found.state == "succeeded":
        why = "" if found.reason == "done" else f", {found.reason}"
        return "\n".join([f"done: {found.step} steps{why}", *metrics_lines(run_dir), *_places(run_dir), *_next(job)])
    if found.state == "stopped":
        where = f", at step {found.step}" if found.step else ""  # none while data is prepared
        return f"{found.reason}{where}\ngo on with:  {command(job)}"
    return f"{failure_text(run_dir, found)}\nwhen it is mended, go on with:  {command(job)}"


def failure_text(run_dir: RunDir, found: Outcome) -> str:
    """What a task that failed, or was stopped, says."""
    if found.state == "stopped":
        return found.reason
    if found.rank is None:
        return f"failed - {found.reason}"
    return failure(found.reason, f"{run_dir.url}/{log_name(found.attempts, found.rank)}", found.log_tail, found.others)


def metrics_lines(run_dir: RunDir) -> list[str]:
    """What report/metrics.json says, in one line; nothing if there is none."""
    try:
        metrics: dict[str, Any] = run_dir.read_json(METRICS)
    except NotStored:
        return []
    text = f"{metrics.get('split')} accuracy {metrics.get('accuracy', 0):.4f}, loss {metrics.get('loss', 0):.4f}"
    return [f"{text} on {metrics.get('num_examples')} examples"]


def command(job: JobSpec, *words: str) -> str:
    """What to type for this run."""
    said = [*words, f"run_id={job.run_id}"]
    if job.storage.root != StorageSpec().root:
        said += [f"storage={job.storage.kind.name}"] if job.storage.kind is not StorageSpec().kind else []
        said.append(f"storage.root={job.storage.root}")
    return " ".join([_program(), *map(shlex.quote, said)])


def typed_again(words: Sequence[str], but: Sequence[str], *more: str) -> str:
    """The command line once more, without the words of the keys and parts in `but`, and with some more words."""
    kept = [word for word in words if word.lstrip("+").partition("=")[0].split(".")[0] not in but]
    return " ".join([_program(), *map(shlex.quote, [*kept, *more])])


def _program() -> str:
    """How this program was started, to be typed again in the same folder."""
    typed = sys.argv[0]
    if os.path.basename(typed) == "convoy":
        return "convoy" if shutil.which("convoy") else shlex.quote(typed)
    return f"{tool('python')} {shlex.quote(typed)}"


def _places(run_dir: RunDir) -> list[str]:
    lines = [f"run directory   {run_dir.url}"]
    if run_dir.store.exists(METRICS):
        lines.append(f"report          {run_dir.url}/{METRICS}")
    if run_dir.store.exists(f"{SAVED_MODEL}/saved_model.pb"):
        lines.append(f"exported model  {run_dir.url}/{SAVED_MODEL}")
    return lines


def _next(job: JobSpec) -> list[str]:
    return [
        f"curves:         {curves(job)}",
        f"measure again:  {command(job, 'job=evaluate')}",
        f"resume:         {command(job)}  (after an interruption)",
    ]


def curves(job: JobSpec) -> str:
    """What to type to see the curves of all runs."""
    if "://" in job.storage.root:
        return command(job, "job=tensorboard")
    return f"{tool('tensorboard')} --logdir {shlex.quote(job.storage.root)}"


def tool(name: str) -> str:
    """How a person starts a program of this Python's environment: by its name where the shell finds that one."""
    own = os.path.join(os.path.dirname(sys.executable), name)
    found = shutil.which(name)
    if found and os.path.abspath(found) == own:
        return name
    return shlex.quote(min(os.path.relpath(own), own, key=len))
