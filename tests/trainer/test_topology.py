"""Who is who: pure arithmetic."""

import json

import numpy as np
import pytest

from conf.errors import BadSpec
from conf.schema import Accelerator, ClusterSpec, JobSpec, TrainerSpec
from trainer.topology import batch_shape, evaluation_shape, find_topology


def job(workers: int = 1, gpus: int | None = None, accelerator: Accelerator = Accelerator.auto, **trainer) -> JobSpec:
    cluster = ClusterSpec(workers=workers, gpus_per_worker=gpus, accelerator=accelerator)
    return JobSpec(cluster=cluster, trainer=TrainerSpec(**trainer))


def environment(workers: int, rank: int) -> dict[str, str]:
    config = {"cluster": {"worker": [f"host{n}:1" for n in range(workers)]}, "task": {"type": "worker", "index": rank}}
    return {"TF_CONFIG": json.dumps(config)}


def test_a_laptop_is_one_replica():
    found = find_topology(job(), {}, 0)
    assert (found.num_workers, found.num_replicas, found.turns, found.on_gpu) == (1, 1, 1, False)
    assert found.is_chief


def test_a_shape_of_gpus_runs_on_logical_cpus():
    found = find_topology(job(gpus=4, accelerator=Accelerator.cpu), {}, 0)
    assert (found.local_replicas, found.turns, found.on_gpu) == (4, 1, False)


def test_a_cpu_worker_of_several_takes_its_replicas_in_turn():
    asked = job(workers=2, gpus=4, accelerator=Accelerator.cpu, global_batch_size=64, accumulation_steps=2)
    found = find_topology(asked, environment(2, 1), 0)
    assert (found.num_workers, found.rank, found.local_replicas, found.turns) == (2, 1, 1, 4)
    assert not found.is_chief and found.replicas == range(1, 2)
    shape = batch_shape(asked, found)
    assert (shape.micro_batch_size, shape.accumulation_steps) == (4, 8)


def test_all_gpus_of_a_host_are_used_unless_told_otherwise():
    assert find_topology(job(), {}, 3).local_replicas == 3
    assert find_topology(job(accelerator=Accelerator.cpu), {}, 3).local_replicas == 1


def test_missing_gpus_are_refused_by_number():
    with pytest.raises(BadSpec, match=r"cluster.gpus_per_worker=4 - TensorFlow sees 1 GPUs"):
        find_topology(job(gpus=4), {}, 1)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest():
    asked = job(gpus=4, accelerator=Accelerator.cpu, global_batch_size=30, accumulation_steps=2)
    with pytest.raises(BadSpec, match=r"multiple of 8 .* nearest: 24, 32"):
        batch_shape(asked, find_topology(asked, {}, 0))


@pytest.mark.parametrize(("batch", "expected"), [(1, 4), (30, 32), (64, 64)])
def test_an_evaluation_batch_is_rounded_up_to_whole_shares(batch, expected):
    asked = job(gpus=4, accelerator=Accelerator.cpu, global_batch_size=64, eval_batch_size=batch)
    shape = evaluation_shape(asked, find_topology(asked, {}, 0))
    assert shape.global_batch_size == expected
    places = np.concatenate([shape.rows(replica) for replica in range(4)])
    assert sorted(places) == list(range(expected))


def test_micro_batches_are_given_by_their_examples_too():
    asked = job(workers=2, global_batch_size=96, micro_batch=12)
    shape = batch_shape(asked, find_topology(asked, environment(2, 1), 0))
    assert (shape.micro_batch_size, shape.accumulation_steps, shape.replica_batch_size) == (12, 4, 48)
    with pytest.raises(BadSpec, match=r"micro_batch=20 - does not divide .* nearest: 16"):
        batch_shape(job(global_batch_size=96, micro_batch=20), find_topology(job(), {}, 0))


def test_a_worker_by_itself_does_not_search_for_the_largest_micro_batch():
    with pytest.raises(BadSpec, match=r"micro_batch=auto - is found when a run begins"):
        batch_shape(job(micro_batch="auto"), find_topology(job(), {}, 0))
