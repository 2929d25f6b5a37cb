"""`trainer.deterministic=true`: two runs of large models leave the same bits. Minutes: `make models`."""

from pathlib import Path

import numpy as np
import pytest

from conf.schema import DataSpec, JobSpec, ModelSpec, OptimizerSpec, SplitSpec, StorageSpec, TrainerSpec
from data_pipeline.prepare import prepare
from storage.run_dir import RunDir
from tests.trainer import gang
from trainer.checkpoints import newest_whole


def job(root: Path, run_id: str, name: str, side: int, shape: str) -> JobSpec:
    """Ten steps on images that can be learnt, with everything that is drawn: dropout, order, augmentation."""
    data = DataSpec(name="synthetic", num_examples=128, image_size=side, split=SplitSpec(0.8, 0.1, 0.1))
    data.augment.flip, data.augment.crop_min_area = True, 0.5
    trainer = TrainerSpec(
        model=ModelSpec(name=name, dropout=0.2),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        steps=10,
        global_batch_size=16,
        deterministic=True,
        evaluate_at_end=False,
        export_at_end=False,
    )
    storage, cluster = StorageSpec(root=str(root)), gang.cluster_of(shape)
    return JobSpec(run_id=run_id, data=data, trainer=trainer, storage=storage, cluster=cluster)


def run(asked: JobSpec) -> dict[str, np.ndarray]:
    """Its last checkpoint."""
    gang.finish(gang.train(asked, asked.cluster.workers), timeout_s=800)
    found = newest_whole(RunDir(asked.storage.root, str(asked.run_id)))
    assert found is not None and found.step == asked.trainer.steps
    return found.tensors


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", gang.SHAPES)
@pytest.mark.parametrize(("name", "side"), [("mobilenetv2", 96), ("xception", 71)])
def test_two_runs_leave_the_same_bits(tmp_path: Path, name: str, side: int, shape: str) -> None:
    prepare(job(tmp_path, "prepare", name, side, shape))
    one, other = (run(job(tmp_path, run_id, name, side, shape)) for run_id in ("one", "other"))
    assert one.keys() == other.keys()
    different = [key for key in one if one[key].tobytes() != other[key].tobytes()]
    assert not different, f"{len(different)} of {len(one)}: {different[:3]}"
    trained = [key for key in one if key.startswith("optimizer/") and key.endswith("momentum")]
    assert trained and all(np.any(one[key]) for key in trained)
