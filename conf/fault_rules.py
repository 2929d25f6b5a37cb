"""Rules of the faults that a job puts into itself."""

import math

from conf.errors import Problem
from conf.schema import FaultPhase, FaultSpec, JobSpec

#: The keys that name a worker.
RANKS = ("kill_rank", "freeze_rank", "raise_rank", "exhaust_rank", "slow_rank")
#: Phases that the chief alone goes through.
OF_THE_CHIEF = (FaultPhase.saving, FaultPhase.exporting)


def problems(job: JobSpec) -> list[Problem]:
    """What is wrong with the faults of this job."""
    return [*_ranks(job), *_numbers(job.fault), *_only_checkpoint(job)]


def is_faulty(fault: FaultSpec) -> bool:
    """Whether any fault is asked for."""
    ranks = [getattr(fault, name) for name in RANKS]
    return any(rank is not None for rank in ranks) or fault.corrupt_checkpoint or fault.failing_writes > 0


def _ranks(job: JobSpec) -> list[Problem]:
    found = []
    for name in RANKS:
        rank, workers = getattr(job.fault, name), job.cluster.workers
        if rank is None:
            continue
        if not 0 <= rank < workers:
            law = f"the job has {workers} worker{'s' * (workers > 1)}, counted from 0"
            found.append(Problem(f"fault.{name}", rank, law, f"fault.{name}={workers - 1}"))
        elif rank > 0 and job.fault.during in OF_THE_CHIEF:
            law = f"fault.during={job.fault.during.name} is the work of rank 0 alone"
            found.append(Problem(f"fault.{name}", rank, law, f"fault.{name}=0, or another fault.during"))
    return found


def _numbers(fault: FaultSpec) -> list[Problem]:
    found = []
    if fault.at_step < 1:
        found.append(Problem("fault.at_step", fault.at_step, "steps are counted from 1", "fault.at_step=50"))
    if not 0 < fault.slow_s < math.inf:
        found.append(Problem("fault.slow_s", fault.slow_s, "must be greater than 0, and end", "fault.slow_s=0.5"))
    if fault.failing_writes < 0:
        law = "a number of writes is at least 0"
        found.append(Problem("fault.failing_writes", fault.failing_writes, law, "fault.failing_writes=1"))
    if is_faulty(fault) and not fault.attempts:
        found.append(Problem("fault.attempts", "[]", "the faults would hit no attempt", "fault.attempts=[1]"))
    if any(attempt < 1 for attempt in fault.attempts):
        law = "attempts of a command are counted from 1"
        found.append(Problem("fault.attempts", fault.attempts, law, "fault.attempts=[1,2]"))
    return found


def _only_checkpoint(job: JobSpec) -> list[Problem]:
    """A run whose only checkpoint is damaged does not begin anew by itself."""
    every = job.trainer.checkpoint_every_steps
    if not job.fault.corrupt_checkpoint or job.fault.at_step > every > 0 or every <= 0:
        return []
    law = f"an older checkpoint has to be there to fall back to, and the first comes at step {every}"
    return [Problem("fault.at_step", job.fault.at_step, law, f"fault.at_step={every + 1}")]
