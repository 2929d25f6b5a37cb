"""The digits job in every precision: the same accuracy within one point. Minutes: `make models`.

One of the 180 test images is half a point, so it is the mean over trainings that differ in nothing but the seed.
"""

import sys
from pathlib import Path
from statistics import mean

import pytest

from conf.schema import DataSpec, Precision
from data_pipeline.prepare import prepare
from launcher.compose import compose
from tests.trainer import gang
from tests.trainer.test_worker_runs import accuracy

SEEDS = (0, 1, 2)
#: Of all images, one point.
POINT = 0.01


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shape", gang.SHAPES)
def test_the_digits_job_is_as_accurate_in_every_precision(tmp_path: Path, shape: str) -> None:
    begun = compose([f"storage.root={tmp_path}", f"data.out={tmp_path}/data"]).job
    prepare(begun)
    found: dict[str, list[float]] = {precision.name: [] for precision in Precision}
    for seed in SEEDS:
        for name, accuracies in found.items():
            words = [f"storage.root={tmp_path}", f"run_id={name}-{seed}", f"seed={seed}", f"trainer.precision={name}"]
            job = compose([*words, "trainer.steps=380", "trainer.export_at_end=false"]).job
            job.data = DataSpec(name="tfrecord", path=f"{tmp_path}/data", channels=1)
            job.cluster = gang.cluster_of(shape)
            gang.finish(gang.train(job, job.cluster.workers), timeout_s=600)
            accuracies.append(accuracy(job))
    sys.stdout.write("".join(f"{shape} {name}: {mean(each):.4f} {each}\n" for name, each in found.items()))
    means = {name: mean(accuracies) for name, accuracies in found.items()}
    assert means["float32"] > 0.96, means
    assert all(abs(value - means["float32"]) <= POINT for value in means.values()), found
