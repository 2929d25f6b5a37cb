"""A poisoned batch in whole runs: found, named, left out; the end is that of plain Keras on the other batches.

Two workers meet a loss that is infinite, two replicas one that is merely far too large.
"""

import dataclasses
import io
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import PIL.Image
import pytest

from conf.schema import (
    Accelerator,
    ClusterSpec,
    DataSpec,
    JobSpec,
    ModelSpec,
    OnBlowUp,
    OptimizerSpec,
    ScheduleSpec,
    StorageSpec,
    TrainerSpec,
)
from data_pipeline.manifest import load_manifest
from data_pipeline.order import place_to_example
from data_pipeline.prepare import prepare
from data_pipeline.records import Record, decode
from tests.data_pipeline.damaging import rewritten
from tests.trainer.phased import averages_over
from tests.trainer.test_phased_runs import run_of, start
from trainer.blow_ups import BlowUp, GaveUp, RolledBack, left_out, settle
from trainer.blown import Blown
from trainer.checkpoints import load, newest_whole
from trainer.models import build_model

SEED, BATCH, STEPS, EVERY, DECAY, RATE = 3, 64, 16, 4, 0.9, 0.003
#: The step, counted from 1, whose batch holds the poisoned example, and where in it.
POISONED, ROW = 10, 5
#: What the poisoned example weighs in each of two prepared sets.
POISONS = {"data": float("inf"), "finite": 1e4}
MODEL = ModelSpec(options={"filters": [8, 8], "dense": 16})


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The digits, one training example of which weighs far too much, and weights to begin with."""
    folder = tmp_path_factory.mktemp("blow-ups")
    for name, weight in POISONS.items():
        manifest = prepare(JobSpec(data=DataSpec(out=str(folder / name)), storage=StorageSpec(root=str(folder))))
        assert manifest is not None
        poison = partial(Record._replace, weight=weight)
        rewritten(manifest, "train", {poisoned_example(manifest.splits["train"].num_examples): poison})
    generator, model = np.random.default_rng(7), build_model(MODEL, (8, 8, 1), 10)
    model.set_weights([generator.normal(0, 0.1, weight.shape).astype(np.float32) for weight in model.get_weights()])
    model.save_weights(folder / "begun.weights.h5")
    return folder


def poisoned_example(count: int) -> int:
    place = np.array([(POISONED - 1) * BATCH + ROW])
    return int(place_to_example(SEED, 0, place, count)[0])


def job(root: Path, run_id: str, replicas: int | None = None, poison: str = "data", **trainer) -> JobSpec:
    settings = {
        "model": dataclasses.replace(MODEL, weights=str(root / "begun.weights.h5")),
        "optimizer": OptimizerSpec(name="adam", learning_rate=RATE),
        "schedule": ScheduleSpec(name="cosine"),
        "steps": STEPS,
        "steps_per_loop": 7,
        "log_every_steps": 5,
        "checkpoint_every_steps": EVERY,
        "eval_every_steps": 8,
        "ema_decay": DECAY,
        "on_blow_up": OnBlowUp.skip,
        "evaluate_at_end": False,
        "export_at_end": False,
    } | trainer
    cluster = ClusterSpec(gpus_per_worker=replicas, accelerator=Accelerator.cpu)
    data = DataSpec(name="tfrecord", path=str(root / poison), channels=1)
    storage = StorageSpec(root=str(root / "runs"))
    return JobSpec(
        run_id=run_id, seed=SEED, data=data, trainer=TrainerSpec(**settings), cluster=cluster, storage=storage
    )


def record_at(root: Path, example: int) -> Record:
    shard = load_manifest(str(root / "data")).splits["train"].shards[0]
    path = root / "data" / shard.name
    offset, length = np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)[example].tolist()
    return decode(path.read_bytes()[offset : offset + length])


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, np.ndarray]:
    """Weights, their averages and the mean loss after plain Keras trained on every batch but the poisoned one."""
    count = load_manifest(str(root / "data")).splits["train"].num_examples
    model = build_model(MODEL, (8, 8, 1), 10)
    model.load_weights(root / "begun.weights.h5")
    schedule = keras.optimizers.schedules.CosineDecay(RATE, STEPS)
    model.compile(keras.optimizers.Adam(schedule), keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False)
    history, losses = [{variable.path: variable.numpy() for variable in model.variables}], []
    for step in range(STEPS):
        if step + 1 == POISONED:
            continue
        places = np.arange(step * BATCH, (step + 1) * BATCH)
        records = [record_at(root, int(example)) for example in place_to_example(SEED, 0, places, count)]
        images = np.stack([np.asarray(PIL.Image.open(io.BytesIO(record.encoded))) for record in records])
        pixels, labels = images[..., None].astype(np.float32), np.array([record.label for record in records])
        losses.append(float(model.loss(labels, model(pixels))))
        model.train_on_batch(pixels, labels)
        history.append({variable.path: variable.numpy() for variable in model.variables})
    found = {f"model/{path}": value for path, value in history[-1].items()}
    assert all(np.abs(value - history[0][name.removeprefix("model/")]).max() > 1e-3 for name, value in found.items())
    found |= {f"ema/{path}": value for path, value in averages_over(history, DECAY).items()}
    return found | {"loss": np.mean(losses)}


def compare(asked: JobSpec, expected: dict[str, np.ndarray]) -> None:
    found, state = load(run_of(asked), STEPS)
    assert int(found["optimizer/adam/iteration"]) == STEPS - 1 == int(found["ema_updates"])
    progress = state["progress"]
    assert progress["left_out"] == [POISONED] and state["skipped_examples"] == 0
    if asked.trainer.blow_up_factor is None:
        assert progress["usual_loss"] == [0, 0]
    else:
        assert progress["usual_loss"] == [pytest.approx(expected["loss"], rel=1e-4), STEPS - 1]
    for name, value in ((name, value) for name, value in expected.items() if name != "loss"):
        assert np.abs(found[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 0.1), name


def expect_blow_up(asked: JobSpec, words: str, workers: int = 1) -> None:
    assert start(asked, workers) == [1] * workers
    log = run_of(asked).local("0.log").read_text()
    (error,) = [line for line in log.splitlines() if line.startswith("error ")]
    assert "error_kind=rolled_back" in error and f"blow-up in step {POISONED}: the loss is {words}" in error
    standing = newest_whole(run_of(asked))
    assert standing is not None and standing.step == POISONED - 1 - (POISONED - 1) % EVERY


def test_two_workers_find_it_and_go_on_without_the_batch_and_so_does_one_alone(root, expected):
    asked = job(root, "two-workers")
    expect_blow_up(asked, "inf", 2)
    (told,) = run_of(asked).read_json("report/blow_ups.json")
    assert (told["step"], told["epoch"], told["left_out"], told["loss"]) == (POISONED, 0, True, "inf")
    assert [example["place"] for example in told["examples"]] == list(range((POISONED - 1) * BATCH, POISONED * BATCH))
    number = poisoned_example(load_manifest(str(root / "data")).splits["train"].num_examples)
    named = told["examples"][ROW]
    assert named["record"] == number and named["key"] == record_at(root, number).key
    alone = job(root, "then-alone")
    shutil.copytree(root / "runs" / "two-workers", root / "runs" / "then-alone")
    run_of(alone).local("report/blow_ups.json").unlink()
    expect_blow_up(alone, "inf")
    assert run_of(alone).read_json("report/blow_ups.json") == [told]
    for run, workers in ((asked, 2), (alone, 1)):
        assert not any(start(run, workers, attempt=2)), run_of(run).local("0.log").read_text()[-3000:]
        compare(run, expected)


def test_two_replicas_find_it_and_go_on_without_the_batch(root, expected):
    asked = job(root, "mirrored", replicas=2, poison="finite", blow_up_factor=20.0)
    expect_blow_up(asked, "")
    (told,) = run_of(asked).read_json("report/blow_ups.json")
    assert np.isfinite(told["gradient_norm"]) and told["loss"] > 20 * told["usual_loss"] > 20
    assert start(asked, attempt=2) == [0], run_of(asked).local("0.log").read_text()[-3000:]
    compare(asked, expected)


@pytest.mark.parametrize(
    ("policy", "before", "kind", "words"),
    [
        (OnBlowUp.skip, 0, RolledBack, "on without this batch"),
        (OnBlowUp.skip, 2, GaveUp, "trainer.max_blow_ups=2 batches were left out already"),
        (OnBlowUp.stop, 0, GaveUp, "trainer.on_blow_up=skip"),
    ],
)
def test_the_policy_has_a_budget(root, policy, before, kind, words):
    asked = job(root, f"{policy.name}-{before}", on_blow_up=policy, max_blow_ups=2)
    said = []
    session = SimpleNamespace(
        job=asked,
        manifest=load_manifest(str(root / "data")),
        topology=SimpleNamespace(is_chief=True),
        channel=SimpleNamespace(say=lambda *_, **fields: said.append(fields)),
    )
    run = run_of(asked)
    earlier = frozenset(range(1, before + 1))
    run.write_json("report/blow_ups.json", [{"step": step, "left_out": True} for step in earlier])
    found = settle(session, run, BlowUp(20, Blown(0, 2.5, float("nan"))), earlier)
    assert type(found) is kind and words in str(found)
    assert "blow-up in step 20: the loss is 2.5 and the norm of the gradient nan" in str(found)
    assert "(epoch 1, places 0 to 63:" in str(found) and "and 61 more; report/blow_ups.json" in str(found)
    assert left_out(run) == earlier | ({20} if kind is RolledBack else set())
    assert said[0]["details"]["left_out"] is (kind is RolledBack)
    json.dumps(run.read_json("report/blow_ups.json"), allow_nan=False)
