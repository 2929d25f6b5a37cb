"""How many parts of a batch are computed side by side."""

import keras
import pytest

from conf import families
from conf.schema import JobSpec, ModelSpec, TrainerSpec
from data_pipeline.order import BatchShape
from trainer.batch_norm import batch_norms
from trainer.lanes import num_lanes
from trainer.models import build_model, mixes_examples
from trainer.topology import Topology

ALONE = Topology(num_workers=1, rank=0, local_replicas=1, turns=1, on_gpu=False)
CONVNET = ModelSpec()


def job(model: ModelSpec, deterministic: bool = False) -> JobSpec:
    return JobSpec(trainer=TrainerSpec(model=model, deterministic=deterministic))


@pytest.mark.parametrize(
    ("batch", "accumulation", "cores", "lanes"),
    [
        (32, 1, 2, 2),
        (64, 1, 4, 4),
        (32, 1, 16, 4),
        (32, 4, 2, 1),
        (48, 1, 5, 4),
        (34, 1, 4, 2),
        (33, 1, 2, 1),
        (7, 1, 2, 1),
    ],
)
def test_each_core_has_a_part_of_at_least_eight(batch, accumulation, cores, lanes):
    assert num_lanes(job(CONVNET), ALONE, BatchShape(batch, accumulation), cores) == lanes


@pytest.mark.parametrize(
    ("spec", "topology"),
    [
        (job(ModelSpec(options={"batch_norm": True})), ALONE),
        (job(ModelSpec(name="mobilenetv2")), ALONE),
        (job(CONVNET, deterministic=True), ALONE),
        (job(CONVNET), Topology(1, 0, 2, 1, False)),
        (job(CONVNET), Topology(1, 0, 1, 1, True)),
    ],
    ids=["batch-norm", "mobilenetv2", "deterministic", "mirrored", "gpu"],
)
def test_a_batch_stays_whole_where_parts_would_differ_or_not_help(spec, topology):
    assert num_lanes(spec, topology, BatchShape(64), 4) == 1


def test_a_family_that_calls_its_examples_independent_has_no_batch_norm():
    one_of_each = {family.module: name for name, family in reversed(families.known().items())}
    specs = [ModelSpec(name=name) for name in one_of_each.values()]
    independent = [spec for spec in specs if not mixes_examples(spec)]
    with keras.StatelessScope(initialize_variables=False):
        assert not any(batch_norms(build_model(spec, (96, 96, 3), 4)) for spec in independent)
    assert {"convnet", "vit", "vgg16", "convnextbase"} == {spec.name for spec in independent}
