"""The same job on other clusters, and on a user's own images."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.manifest import load_manifest

JOB = (
    "trainer.steps=20",
    "trainer.model.dropout=0",
    "trainer.optimizer.name=sgd",
    "trainer.optimizer.learning_rate=0.05",
    "trainer.export_at_end=false",
)
#: Workers, and replicas a worker.
SHAPES = {
    "one": ("cluster=1cpu", 1),
    "mirrored": ("cluster=4gpu", 1),
    "workers": ("cluster=2cpu", 2),
    "both": ("cluster=2x4gpu", 2),
}


def weights(convoy, run_id: str, step: int) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((convoy.runs / run_id / "checkpoints" / f"step_{step:08d}").glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.fixture(scope="module")
def shapes(convoy):
    """The same job on every shape."""
    for run_id, (cluster, _) in SHAPES.items():
        convoy.run(f"run_id={run_id}", cluster, "cluster.accelerator=cpu", *JOB)
    return {run_id: weights(convoy, run_id, 20) for run_id in SHAPES}


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "one"])
def test_what_is_learnt_does_not_depend_on_the_cluster(shapes, convoy, shape):
    assert shapes[shape].keys() == shapes["one"].keys()
    for name, value in shapes["one"].items():
        np.testing.assert_allclose(
            shapes[shape][name], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1), err_msg=name
        )
    one, other = (convoy.json(run_id, "report/metrics.json") for run_id in ("one", shape))
    assert one["confusion_matrix"] == other["confusion_matrix"]
    assert 0.1 < one["accuracy"] < 1 and one["loss"] < np.log(10)
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_worker_is_a_process_with_a_log_of_its_own(shapes, convoy, shape):
    workers = SHAPES[shape][1]
    pids = {event["details"]["pid"] for event in convoy.events(shape, "worker_started")}
    assert len(pids) == workers
    assert len(list((convoy.runs / shape / "attempts").glob("*/rank_*.log"))) == workers


def test_the_plan_starts_nothing(convoy):
    said = convoy.run("run_id=planned", "dry_run=true", "cluster=2x4gpu", "cluster.accelerator=cpu")
    assert "MultiWorkerMirrored" in said and "8" in said
    assert not (convoy.runs / "planned").exists()


def test_gpus_that_are_not_there_are_refused_at_once(convoy):
    begun = time.monotonic()
    said = convoy.run("trainer=xception", "cluster=4gpu", "cluster.accelerator=gpu", expect=78)
    assert time.monotonic() - begun < 10
    assert "4 GPUs" in said and "cluster.accelerator=cpu" in said


@pytest.mark.timeout(400)
def test_xception_trains_on_four_cpu_replicas(convoy):
    convoy.run(
        "run_id=xception",
        "trainer=xception",
        "cluster=4gpu",
        "cluster.accelerator=cpu",
        "trainer.steps=2",
        "trainer.global_batch_size=8",
        "trainer.eval_every_steps=100",
        "trainer.evaluate_at_end=false",
        "trainer.export_at_end=false",
        "data.split.train=0.98",
        "data.split.validation=0.01",
        "data.split.test=0.01",
        timeout_s=380,
    )
    manifest = json.loads((convoy.runs / "xception/checkpoints/step_00000002/manifest.json").read_text())
    assert manifest["step"] == 2
    # Digits of 8 pixels are enlarged to the smallest that Xception takes, not to its 299.
    assert weights(convoy, "xception", 2)["model/logits/kernel"].shape == (2048, 10)


def photographs(cifar10: Path, folder: Path, classes: int, each: int) -> Path:
    """A flat folder of classes, each with a few photographs."""
    for category in sorted((cifar10 / "train").iterdir())[:classes]:
        (folder / category.name).mkdir(parents=True)
        for path in sorted(category.iterdir())[:each]:
            shutil.copy(path, folder / category.name)
    return folder


def test_a_flat_folder_of_photographs_is_split_7_2_1(convoy, cifar10, tmp_path):
    photos = photographs(cifar10, tmp_path / "photos", classes=3, each=40)
    convoy.run(
        "run_id=photos", "data=folder", f"data.path={photos}", "trainer.epochs=2", "trainer.global_batch_size=16"
    )
    assert convoy.json("photos", "report/metrics.json")["num_examples"] == 12
    prepared = next(path for path in (convoy.runs / "_data").iterdir() if path.name.startswith("folder"))
    manifest = load_manifest(str(prepared))
    counts = {split: value.class_counts for split, value in manifest.splits.items()}
    assert counts == {"train": [28] * 3, "validation": [8] * 3, "test": [4] * 3}


def test_a_folder_with_splits_is_prepared_once_and_read_as_tfrecords(convoy, cifar10):
    prepared = convoy.runs / "cifar10"
    convoy.run("job=prepare", "data=folder", f"data.path={cifar10}", f"data.out={prepared}")
    manifest = load_manifest(str(prepared))
    assert manifest.splits["test"].class_counts == [200] * 10 and manifest.num_classes == 10
    assert sum(manifest.splits[split].num_examples for split in ("train", "validation")) == 10_000
    said = convoy.run(
        "run_id=tfrecord", "data=tfrecord", f"data.path={prepared}", "trainer.steps=5", "trainer.export_at_end=false"
    )
    assert "preparing" not in said
    assert convoy.json("tfrecord", "report/metrics.json")["num_examples"] == 2000
