"""How a batch is cut by the examples of one pass."""

import pytest

from conf import micro_batch, rules
from conf.errors import BadSpec
from conf.schema import Accelerator, AugmentSpec, ClusterSpec, DataSpec, JobSpec, TrainerSpec


def job(size: object, batch: int = 96, workers: int = 1, mixup: float = 0.0, **trainer: object) -> JobSpec:
    cluster = ClusterSpec(workers=workers, accelerator=Accelerator.cpu)
    data = DataSpec(augment=AugmentSpec(mixup=mixup))
    return JobSpec(
        data=data, trainer=TrainerSpec(global_batch_size=batch, micro_batch=size, epochs=1, **trainer), cluster=cluster
    )


def test_sizes_are_the_divisors_of_a_replicas_share():
    assert micro_batch.sizes(12) == [1, 2, 3, 4, 6, 12]
    assert micro_batch.sizes(12, 2) == [2, 4, 6, 12]
    assert micro_batch.sizes(7, 2) == []


@pytest.mark.parametrize(
    ("share", "at_most", "found"), [(48, 48, 48), (48, 47, 24), (48, 5, 4), (24, 16, 12), (5, 4, 1)]
)
def test_the_largest_below_a_bound_divides_the_share(share, at_most, found):
    assert micro_batch.largest(share, at_most) == found


def test_the_global_batch_stays_and_accumulation_rises():
    assert micro_batch.accumulation_steps(TrainerSpec(global_batch_size=96, micro_batch=8), 2) == 6
    assert micro_batch.accumulation_steps(TrainerSpec(global_batch_size=96, micro_batch=48), 2) == 1
    assert micro_batch.accumulation_steps(TrainerSpec(global_batch_size=96, accumulation_steps=3), 2) == 3


@pytest.mark.parametrize("fits", [job("auto"), job(None), job(12, workers=2), job(8, mixup=0.2), job("auto", 100, 5)])
def test_what_can_be_cut_is_no_problem(fits):
    rules.check(fits)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (job("most"), "is null, auto, or the number of examples"),
        (job(0), "is null, auto, or the number of examples"),
        (job(True), "is null, auto, or the number of examples"),
        (job("auto", accumulation_steps=2), "trainer.accumulation_steps=2 says already"),
        (job(7), "must be a multiple of 7 .* trainer.micro_batch=7.* nearest: 91, 98"),
        (job(96, workers=2), "must be a multiple of 192"),
        (job(3, mixup=0.2), "take pairs"),
    ],
)
def test_what_cannot_be_cut_is_refused(bad, words):
    with pytest.raises(BadSpec, match=words):
        rules.check(bad)
