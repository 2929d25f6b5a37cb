"""Whole runs of a worker in phases, with averages, a plateau and early stopping, killed and not: the same bits."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from conf.data_url import data_url
from conf.files import load_job
from conf.judge_rules import METRICS
from conf.schema import (
    Accelerator,
    CheckpointsSpec,
    ClusterSpec,
    DataSpec,
    EarlyStoppingSpec,
    FaultSpec,
    JobSpec,
    KerasFormat,
    LooksSpec,
    ModelSpec,
    OptimizerSpec,
    PhaseSpec,
    PlateauSpec,
    ScheduleSpec,
    StorageSpec,
    TrainerSpec,
)
from data_pipeline.manifest import load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import evaluation_dataset
from data_pipeline.prepare import prepare
from storage.run_dir import SAVED_MODEL, RunDir, checkpoint_name
from tests.curves import curve
from tests.trainer import gang
from trainer.checkpoints import list_checkpoints, load, newest_whole
from trainer.models import build_model

OLDER = Path(__file__).with_name("older_run")
#: The phases end at 20 and 45; checkpoints are written at the change, in the middle, and at the end.
STEPS, EVERY, PHASE_ENDS = 100, 10, (20, 45)
#: Checkpoints that a run keeps for their accuracy, where it is asked to.
BEST = 4
HEAD = [PhaseSpec(trainable="head", steps=20, learning_rate=0.01, schedule=ScheduleSpec())]
UPPER = [PhaseSpec(trainable="conv2", steps=25, schedule=ScheduleSpec(name="cosine", warmup_steps=5))]


def job(root: Path, run_id: str) -> JobSpec:
    trainer = TrainerSpec(
        model=ModelSpec(options={"filters": [8, 8], "dense": 16, "batch_norm": True}),
        optimizer=OptimizerSpec(name="adam", learning_rate=0.003),
        phases=[*HEAD, *UPPER, PhaseSpec(optimizer=OptimizerSpec(name="sgd", learning_rate=0.002))],
        steps=STEPS,
        steps_per_loop=7,
        eval_every_steps=5,
        checkpoint_every_steps=EVERY,
        keep_checkpoints=2,
        keep_every_steps=EVERY,
        ema_decay=0.8,
        tensorboard=LooksSpec(hparams=["seed"]),
        early_stopping=EarlyStoppingSpec("validation_loss", patience=3, min_delta=0.1),
        plateau=PlateauSpec("validation_macro_f1", factor=0.5, patience=1, min_delta=0.05),
        evaluate_at_end=False,
        export_at_end=False,
    )
    data = DataSpec(out=str(root / "data"), channels=1)
    return JobSpec(run_id=run_id, data=data, trainer=trainer, storage=StorageSpec(root=str(root / "runs")))


def start(asked: JobSpec, workers: int = 1, *words: str, attempt: int = 1) -> list[int]:
    """Run it to its end; the workers' exit codes."""
    return gang.wait(gang.train(asked, workers, "--attempt", str(attempt), *words))


def run(asked: JobSpec, workers: int = 1, attempt: int = 1) -> dict[str, np.ndarray]:
    """Run it to its end, which has to be a good one; its last checkpoint."""
    codes = start(asked, workers, attempt=attempt)
    assert not any(codes), (run_of(asked).local("0.log")).read_text()[-3000:]
    found = newest_whole(run_of(asked))
    assert found is not None
    return found.tensors


def run_of(asked: JobSpec) -> RunDir:
    return RunDir(asked.storage.root, str(asked.run_id))


def left_at(root: Path, step: int, run_id: str) -> JobSpec:
    """A job that stands where the calm run stood at `step`, as if it had been killed before it saved again."""
    source, copy = root / "runs" / "calm", root / "runs" / run_id
    for folder in (source / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step_")) <= step:
            shutil.copytree(folder, copy / "checkpoints" / folder.name)
    return job(root, run_id)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phased-runs")
    prepare(job(folder, "prepare"))
    return folder


@pytest.fixture(scope="module")
def calm(root) -> dict[str, np.ndarray]:
    return run(job(root, "calm"))


def state_of(root: Path, step: int, run_id: str = "calm") -> dict[str, Any]:
    folder = root / "runs" / run_id / checkpoint_name(step)
    return dict(json.loads(next(folder.glob("*-state.json")).read_text()))


def last_state(asked: JobSpec) -> dict[str, Any]:
    found = newest_whole(run_of(asked))
    assert found is not None
    return found.state


def test_a_checkpoint_says_where_the_training_stands(root, calm):
    found = [state_of(root, step)["phase"]["number"] for step in (10, 20, 30, 40, 50)]
    assert found == [0, 0, 1, 1, 2], "a checkpoint at a change is still of the phase that ended"
    assert not any("adam" in name for name in calm) and any("sgd" in name for name in calm)
    state = last_state(job(root, "calm"))
    judges = state["judges"]
    assert 45 < state["progress"]["step"] < STEPS and judges["stopped"].startswith("stopped early at step")
    assert judges["plateau"]["factor"] < 1, "no rate was lowered in the last phase"
    assert state_of(root, 40)["judges"]["plateau"]["factor"] < 1, "no rate was lowered in the second phase"
    assert judges["best_metrics"].keys() == set(METRICS)
    assert {"python", "tensorflow", "keras", "numpy"} == state["versions"].keys()
    assert len(state["job"]) == 64 and state["skipped_examples"] == 0


def test_the_best_checkpoint_stays_and_its_averages_are_exported(root, calm):
    asked = job(root, "calm")
    judges = last_state(asked)["judges"]
    best = judges["early_stopping"]["best_step"]
    assert best < last_state(asked)["progress"]["step"] - 2 * 5, "the last is the best: nothing to restore"
    tensors, state = load(run_of(asked), best)
    assert state["progress"]["last_metrics"]["validation_loss"] == judges["early_stopping"]["best"]
    (shown,) = curve(root / "runs" / "calm" / "tensorboard" / "hparams", "validation_loss")
    assert shown == (best, pytest.approx(judges["early_stopping"]["best"])), "results of other weights"
    exporting = dataclasses.replace(asked, checkpoints=CheckpointsSpec(export=KerasFormat.weights_h5))
    assert start(exporting, 1, "--task", "checkpoints") == [0]
    model = build_model(asked.trainer.model, (8, 8, 1), 10)
    model.load_weights(root / "runs" / "calm" / "export" / "model.weights.h5")
    for variable in model.variables:
        assert np.array_equal(variable.numpy(), tensors[f"ema/{variable.path}"]), variable.path
        assert not variable.path.startswith("logits") or not np.array_equal(variable, tensors[f"model/{variable.path}"])
    # They are also what was evaluated: Keras finds the same loss with them, and another one without.
    measured = judges["early_stopping"]["best"]
    assert loss_by_keras(asked, model) == pytest.approx(measured, rel=1e-5)
    for variable in model.variables:
        variable.assign(tensors[f"model/{variable.path}"])
    assert loss_by_keras(asked, model) != pytest.approx(measured, rel=1e-3)


def loss_by_keras(asked: JobSpec, model: keras.Model, name: str = "validation") -> float:
    """The mean loss over a split."""
    size = BatchShape(asked.trainer.global_batch_size)
    split = evaluation_dataset(load_manifest(data_url(asked)), name, asked.data, size, range(1), 8)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    losses = [loss_of(batch["label"], model(batch["image"])).numpy()[batch["mask"] > 0] for batch in split]
    return float(np.concatenate(losses).mean())


def asks_for_the_best(asked: JobSpec) -> JobSpec:
    """The same training, of which the newest and the four best are kept, and the best is what is measured."""
    asked.trainer.keep_checkpoints, asked.trainer.keep_every_steps = 1, None
    asked.trainer.keep_best, asked.trainer.best_metric = BEST, "validation_accuracy"
    asked.trainer.evaluate_at_end = True
    return asked


def check_best(root: Path, asked: JobSpec, begun_at: int) -> None:
    """That a run which went on from a step of the calm one stopped, measured and kept what its curves and Keras say."""
    losses, accuracies = ({}, {})
    for run_id, steps in (("calm", range(begun_at + 1)), (str(asked.run_id), range(begun_at + 1, STEPS))):
        for tag, found in (("loss", losses), ("accuracy", accuracies)):
            points = curve(root / "runs" / run_id / "tensorboard" / "validation", tag)
            found |= {step: value for step, value in points if step in steps}
    best = None
    for step, loss in losses.items():
        best = step if best is None or loss < losses[best] - asked.trainer.early_stopping.min_delta else best
    last = max(best, PHASE_ENDS[1]) + 3 * 5  # so many evaluations without a better one, and in the last phase alone
    state, report = last_state(asked), run_of(asked).read_json("report/metrics.json")
    assert list(losses) == list(range(5, last + 1, 5)) and state["progress"]["step"] == last
    assert state["judges"]["early_stopping"]["best_step"] == report["step"] == best < last

    measured = {}
    for step in (best, last):
        tensors, _ = load(run_of(asked), step)
        model = build_model(asked.trainer.model, (8, 8, 1), 10)
        for variable in model.variables:
            variable.assign(tensors[f"ema/{variable.path}"])
        assert loss_by_keras(asked, model) == pytest.approx(losses[step], rel=1e-5)
        measured[step] = loss_by_keras(asked, model, "test")
    assert report["loss"] == pytest.approx(measured[best], rel=1e-5)
    assert report["loss"] != pytest.approx(measured[last], rel=1e-3)

    saved = [step for step in losses if step % EVERY == 0 or step in (*PHASE_ENDS, last)]
    ranked = sorted(saved, key=lambda step: (-accuracies[step], step))
    kept = [status.step for status in list_checkpoints(run_of(asked))]
    assert kept == sorted({*ranked[:BEST], best, last})
    assert kept != saved[-len(kept) :], "the newest are the best: nothing to keep"


def same_bits(found: dict[str, np.ndarray], calm: dict[str, np.ndarray]) -> None:
    assert found.keys() == calm.keys()
    assert [name for name in calm if not np.array_equal(found[name], calm[name])] == []


def test_a_run_that_is_killed_in_its_second_phase_ends_with_the_same_bits(root, calm):
    asked = job(root, "killed")
    assert start(dataclasses.replace(asked, fault=FaultSpec(kill_rank=0, at_step=41))) == [-signal.SIGKILL]
    standing = newest_whole(run_of(asked))
    assert standing is not None and standing.step <= 40  # whatever was saved when it died at step 42
    same_bits(run(asked, attempt=2), calm)
    theirs, ours = last_state(job(root, "calm")), last_state(asked)
    assert ours == theirs


def test_a_run_goes_on_exactly_at_a_change_with_the_same_bits(root, calm):
    asked = asks_for_the_best(left_at(root, 20, "from-20"))
    asked.trainer.export_at_end = True
    same_bits(run(asked), calm)
    check_best(root, asked, 20)
    # The SavedModel has the averages of the best step, as Keras computes with them.
    best = last_state(asked)["judges"]["early_stopping"]["best_step"]
    tensors, _ = load(run_of(asked), best)
    served = tf.saved_model.load(str(run_of(asked).local(SAVED_MODEL))).signatures["serving_default"]
    images, found = tf.constant(load_digits().images[:64, ..., None] * 15.9375, tf.float32), {}
    for kind in ("model", "ema"):
        model = build_model(asked.trainer.model, (8, 8, 1), 10)
        for variable in model.variables:
            variable.assign(tensors[f"{kind}/{variable.path}"])
        found[kind] = keras.ops.softmax(model(images)).numpy()
    probabilities = served(image=images)["probabilities"].numpy()
    assert np.abs(probabilities - found["ema"]).max() < 1e-5 < 1e-2 < np.abs(probabilities - found["model"]).max()


@pytest.mark.parametrize(("workers", "replicas"), [(2, None), (1, 2)])
def test_another_number_of_workers_or_replicas_goes_on_in_the_phase_it_finds(root, calm, workers, replicas):
    asked = asks_for_the_best(left_at(root, 40, f"{workers}-workers"))
    asked.cluster = ClusterSpec(gpus_per_worker=replicas, accelerator=Accelerator.cpu)
    found = run(asked, workers)
    assert found.keys() == calm.keys()
    state = last_state(asked)
    assert state["phase"]["number"] == 2 and state["judges"]["stopped"] and state["judges"]["plateau"]["factor"] < 1
    (shown,) = curve(run_of(asked).local("tensorboard/hparams"), "validation_loss")
    assert shown[1] == pytest.approx(state["judges"]["early_stopping"]["best"])
    check_best(root, asked, 40)


def test_a_run_of_an_older_version_goes_on_as_it_would_have_then(root):
    """`older_run` was written before there were phases, averages and judges: format version 1, without their state."""
    old = load_job((OLDER / "job.yaml").read_text(), "job.yaml")
    asked = dataclasses.replace(
        old,
        data=dataclasses.replace(old.data, out=str(root / "data")),
        storage=StorageSpec(root=str(root / "runs")),
    )
    expected, _ = load(RunDir(str(OLDER.parent), OLDER.name), 36)
    shutil.copytree(OLDER / checkpoint_name(24), root / "runs" / "old" / checkpoint_name(24))
    begun, state = load(run_of(asked), 24)
    assert "phase" not in state and "judges" not in state
    found = run(asked)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-4 * max(float(np.abs(value).max()), 1e-3), name
        assert value.ndim == 0 or not np.array_equal(value, begun[name]), f"{name} did not move"
