"""Which workers with what: the table of what fits and what is refused."""

from pathlib import Path

import pytest

from conf.errors import BadSpec
from conf.schema import Accelerator, ClusterSpec
from launcher.machine import count_gpus
from launcher.placement import Host, place, ray_cpus, shape

AUTO, GPU, CPU = Accelerator.auto, Accelerator.gpu, Accelerator.cpu
LAPTOP = [Host("this machine", 2, 0)]
SERVER = [Host("this machine", 64, 8)]
CLUSTER = [Host("a", 16, 4), Host("b", 16, 4)]


@pytest.mark.parametrize(
    ("workers", "gpus", "accelerator", "hosts", "expected"),
    [
        # workers, GPUs of each, replicas of each, shares of each, strategy
        (1, None, AUTO, LAPTOP, (1, 0, 1, 1, "default")),
        (1, None, AUTO, SERVER, (1, 8, 8, 8, "MirroredStrategy")),
        (1, None, CPU, SERVER, (1, 0, 1, 1, "default")),
        (1, 1, AUTO, SERVER, (1, 1, 1, 1, "default")),
        (1, 4, CPU, LAPTOP, (1, 0, 4, 4, "MirroredStrategy")),
        (2, None, CPU, LAPTOP, (2, 0, 1, 1, "MultiWorkerMirroredStrategy")),
        (2, 4, CPU, LAPTOP, (2, 0, 1, 4, "MultiWorkerMirroredStrategy")),
        (2, 4, AUTO, SERVER, (2, 4, 4, 4, "MultiWorkerMirroredStrategy")),
        (2, 4, GPU, CLUSTER, (2, 4, 4, 4, "MultiWorkerMirroredStrategy")),
        (2, None, AUTO, SERVER, (2, 4, 4, 4, "MultiWorkerMirroredStrategy")),
        (2, None, AUTO, CLUSTER, (2, 4, 4, 4, "MultiWorkerMirroredStrategy")),
    ],
)
def test_a_shape_that_fits_is_placed(workers, gpus, accelerator, hosts, expected):
    spec = ClusterSpec(workers=workers, gpus_per_worker=gpus, accelerator=accelerator)
    found = place(spec, hosts, own_ray=True)
    assert (
        found.num_workers,
        found.gpus,
        found.replicas_per_worker,
        found.shares_per_worker,
        found.strategy,
    ) == expected


@pytest.mark.parametrize(
    ("spec", "hosts", "own", "words"),
    [
        (
            dict(name="4gpu", gpus_per_worker=4),
            LAPTOP,
            True,
            ["cluster=4gpu", "needs 4 GPUs on one host", "has 0", "accelerator=cpu"],
        ),
        (
            dict(name="2x4gpu", workers=2, gpus_per_worker=4),
            [Host("a", 8, 4)],
            False,
            ["2 workers with 4 GPUs each", "a has 4"],
        ),
        (dict(name="2x8gpu", workers=2, gpus_per_worker=8), CLUSTER, False, ["2 hosts have 8", "a 4, b 4"]),
        (dict(name="4gpu", gpus_per_worker=4, cpus_per_worker=32), CLUSTER, False, ["4 GPUs", "32 CPUs", "a 16, b 16"]),
        (dict(accelerator=GPU), LAPTOP, True, ["accelerator=gpu", "has 0"]),
        (
            dict(workers=33, accelerator=CPU),
            CLUSTER,
            False,
            ["cluster.workers=33", "have 32 CPUs", "at most cluster.workers=32"],
        ),
        (
            dict(workers=17, accelerator=CPU),
            LAPTOP,
            True,
            ["cluster.workers=17", "has 2 CPUs", "at most cluster.workers=16"],
        ),
        (dict(cpus_per_worker=4, accelerator=CPU), LAPTOP, True, ["cpus_per_worker=4", "has 2 CPUs", "at most 2"]),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_numbers_and_a_cure(spec, hosts, own, words):
    with pytest.raises(BadSpec) as refused:
        place(ClusterSpec(**spec), hosts, own_ray=own)
    for word in words:
        assert word in str(refused.value)


def test_our_own_ray_is_told_as_many_cpus_as_the_job_asks_for():
    four = place(ClusterSpec(workers=4, accelerator=CPU), LAPTOP, own_ray=True)
    assert ray_cpus(four) == 4
    assert ray_cpus(place(ClusterSpec(), SERVER, own_ray=True)) == 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(None, 4), ("", 0), ("-1", 0), ("0", 1), ("0,2", 2), ("0,-1,2", 1), ("0,1,2,3,4,5", 4), ("GPU-a,GPU-b", 2)],
)
def test_gpus_are_counted_by_their_device_files_as_far_as_they_are_visible(tmp_path: Path, shown, expected):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_gpus(tmp_path, {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}) == expected


@pytest.mark.parametrize(
    ("workers", "gpus", "accelerator", "expected"),
    [
        (1, 4, AUTO, (1, 4, 4, "MirroredStrategy")),
        (2, 4, GPU, (2, 4, 4, "MultiWorkerMirroredStrategy")),
        (1, None, GPU, (1, 1, 1, "default")),
        (1, None, AUTO, (1, 0, 1, "default")),
    ],
)
def test_the_shape_of_a_plan_needs_no_hosts_that_have_it(workers, gpus, accelerator, expected):
    found = shape(ClusterSpec(workers=workers, gpus_per_worker=gpus, accelerator=accelerator), LAPTOP)
    assert (found.num_workers, found.gpus, found.shares_per_worker, found.strategy) == expected
