"""The examples that a replica takes in one pass, and how many passes make an update. Pure."""

from conf import augment_rules
from conf.errors import Problem
from conf.schema import JobSpec, TrainerSpec

#: trainer.micro_batch: the most that fit, found when the run begins.
AUTO = "auto"


def accumulation_steps(trainer: TrainerSpec, num_replicas: int) -> int:
    """Passes of an update on so many replicas: as asked, or as many as `micro_batch` examples each need.

    Where `micro_batch` does not divide a replica's share they are as many as begin; `rules` refuses that job.
    """
    if not isinstance(trainer.micro_batch, int):
        return trainer.accumulation_steps
    return max(-(-trainer.global_batch_size // (num_replicas * trainer.micro_batch)), 1)


def sizes(share: int, multiple: int = 1) -> list[int]:
    """What `micro_batch` may be where a replica takes `share` examples of a step: divisors, multiples of `multiple`."""
    return [size for size in range(multiple, share + 1, multiple) if share % size == 0]


def largest(share: int, at_most: int, multiple: int = 1) -> int:
    """The largest of these sizes that is no more than `at_most`; the smallest of all where none is."""
    possible = sizes(share, multiple) or [share]
    return max((size for size in possible if size <= at_most), default=possible[0])


def problems(job: JobSpec) -> list[Problem]:
    """What is wrong with `trainer.micro_batch` by itself."""
    size, found = job.trainer.micro_batch, []
    key = "trainer.micro_batch"
    if size is not None and size != AUTO and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        law = "is null, auto, or the number of examples that a replica takes in one pass"
        found.append(Problem(key, size, law, f"{key}=auto, or {key}=32"))
    elif size is not None and job.trainer.accumulation_steps != 1:
        law = f"trainer.accumulation_steps={job.trainer.accumulation_steps} says already how a batch is cut"
        found.append(Problem(key, size, law, "one of the two"))
    elif isinstance(size, int) and size % 2 and augment_rules.mixes(job.data.augment):
        found.append(Problem(key, size, "MixUp and CutMix take pairs", f"{key}={size + 1}"))
    return found
