"""One trial of a sweep: a usual job in a process of its own, its words, its log, and what came of it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.exit_codes import DONE, INTERRUPTED, STOPPED
from conf.judge_rules import SCORES
from conf.schema import JobSpec
from launcher.axes import Values
from launcher.child import ROOT, die_with_parent
from launcher.saved import outcome
from storage.run_dir import RunDir

ENTRY = f"{ROOT}/launcher/run.py"
#: Where a sweep's own folder keeps what its trials printed.
LOGS = "trials"
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Trial:
    """What is tried, and as which run. `refused` says why it cannot be."""

    number: int
    run_id: str
    values: Values
    words: tuple[str, ...]
    job: JobSpec | None = None
    refused: str | None = None

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.run_id} ({', '.join(f'{key}={value}' for key, value in self.values.items())})"


@dataclass(frozen=True)
class Result:
    """What came of a trial: its state, its metrics at the step of the weights it ended with, and why it failed."""

    state: str  # as in outcome.json; refused | unfinished
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None


def result_of(trial: Trial, root: str, said: str = "") -> Result:
    """What the trial's run directory says; `said` is the last line of its log."""
    if trial.refused is not None:
        return Result("refused", reason=trial.refused)
    run_dir = RunDir(root, trial.run_id)
    ended = outcome(run_dir)
    state = str(ended.get("state", "failed" if said else "unfinished"))
    reason = None if state == "succeeded" else str(ended.get("reason") or said) or None
    return Result(state, int(ended.get("step") or 0), metrics_of(run_dir), reason and reason.splitlines()[0])


def metrics_of(run_dir: RunDir) -> dict[str, float]:
    """The last evaluation of the validation split, or that of the step whose weights were taken in the end."""
    found: dict[int, dict[str, float]] = {}
    step = None
    for event in run_dir.events():
        details: dict[str, Any] = event.get("details") or {}
        if event.get("kind") == "evaluated" and details.get("split") == "validation" and "step" in details:
            step = int(details["step"])
            found[step] = {f"validation_{name}": float(details[name]) for name in SCORES if name in details}
        elif event.get("kind") == "best_restored" and details.get("step") in found:
            step = int(details["step"])
    return found[step] if step is not None else {}


class Process:
    """A trial on its way. It dies with this process."""

    def __init__(self, trial: Trial, log: Path, environ: Mapping[str, str]):
        self.trial, self.log, self._is_stopping = trial, log, False
        self._process = start([*trial.words, f"run_id={trial.run_id}"], log, environ)

    def ended(self) -> int | None:
        """Its exit code; None while it lives."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save and stop."""
        if not self._is_stopping:
            self._is_stopping = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_line(self) -> str:
        """What it said last, where it did not end well. Whoever was asked to stop has not failed, however early."""
        if self._process.returncode in (DONE, STOPPED, INTERRUPTED, -signal.SIGTERM):
            return ""
        return last_line(self.log) or f"exit code {self._process.returncode}"


def start(words: Sequence[str], log: Path, environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """The command itself, its words appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, ENTRY, *words],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def last_line(log: Path) -> str:
    """The last line that says something."""
    said = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
