"""What a search for good settings may be asked for."""

import math

from conf.errors import Problem
from conf.judge_rules import METRICS
from conf.phases import phases_of
from conf.schema import FindLrSpec, JobSpec, SweepKind, SweepSpec, Verb
from conf.words import nearest

#: Steps of a rate test: fewer do not show where the loss falls.
FEWEST_STEPS = 10


def problems(job: JobSpec) -> list[Problem]:
    """Everything that is wrong with it."""
    rates = _find_lr(job.find_lr, len(phases_of(job.trainer))) if job.job is Verb.find_lr else []
    return rates + _sweep(job.sweep)


def _find_lr(asked: FindLrSpec, num_phases: int) -> list[Problem]:
    found = []
    if not 0 < asked.low < asked.high < math.inf:
        law = "rates go up, from find_lr.low above 0 to find_lr.high"
        found.append(Problem("find_lr.low", f"{asked.low:g}", law, "find_lr.low=1e-6 find_lr.high=10"))
    if asked.steps < FEWEST_STEPS:
        law = f"fewer than {FEWEST_STEPS} steps do not show where the loss falls"
        found.append(Problem("find_lr.steps", asked.steps, law, "find_lr.steps=100"))
    if not 1 <= asked.phase <= num_phases:
        law = f"the training has {num_phases} phase{'s' * (num_phases > 1)}"
        found.append(Problem("find_lr.phase", asked.phase, law, "find_lr.phase=1"))
    return found


def _sweep(asked: SweepSpec) -> list[Problem]:
    found = []
    if asked.metric not in METRICS:
        law = "no evaluation gives this metric"
        found.append(Problem("sweep.metric", asked.metric, law, nearest(asked.metric, METRICS)))
    if asked.kind is SweepKind.grid and asked.trials is not None:
        law = "a grid tries every combination"
        found.append(Problem("sweep.trials", asked.trials, law, "sweep.kind=random draws so many, or leave it out"))
    for name, count in (("sweep.trials", asked.trials), ("sweep.at_once", asked.at_once)):
        if count is not None and count < 1:
            found.append(Problem(name, count, "must be greater than 0", f"{name}=4"))
    return found
