"""Whole runs of a worker in phases: one that goes on anywhere ends with the bits of one that was never interrupted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.files import dump_job
from conf.schema import DataSpec, JobSpec, ModelSpec, OptimizerSpec, PhaseSpec, ScheduleSpec, StorageSpec, TrainerSpec
from data_pipeline.prepare import prepare
from storage.run_dir import RunDir, checkpoint_name
from tests.trainer.conftest import free_ports
from trainer.checkpoints import newest_whole

ROOT = Path(__file__).resolve().parents[2]
#: The phases end at 20 and 45; checkpoints are written at the change, in the middle, and at the end.
STEPS, EVERY = 60, 10
HEAD = [PhaseSpec(trainable="head", steps=20, learning_rate=0.01, schedule=ScheduleSpec())]
UPPER = [PhaseSpec(trainable="conv2", steps=25, schedule=ScheduleSpec(name="cosine", warmup_steps=5))]


def job(root: Path, run_id: str) -> JobSpec:
    model = ModelSpec(options={"filters": [8, 8], "dense": 16})
    trainer = TrainerSpec(
        model=model,
        optimizer=OptimizerSpec(name="adam", learning_rate=0.003),
        phases=[*HEAD, *UPPER, PhaseSpec(optimizer=OptimizerSpec(name="sgd", learning_rate=0.01))],
        steps=STEPS,
        steps_per_loop=7,
        checkpoint_every_steps=EVERY,
        keep_every_steps=EVERY,
        evaluate_at_end=False,
        export_at_end=False,
    )
    data = DataSpec(out=str(root / "data"), channels=1)
    return JobSpec(run_id=run_id, data=data, trainer=trainer, storage=StorageSpec(root=str(root / "runs")))


def run(asked: JobSpec, workers: int = 1) -> dict[str, np.ndarray]:
    """Run it to its end; its last checkpoint."""
    path = Path(asked.storage.root) / str(asked.run_id) / "job.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_job(asked))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    running = []
    for rank in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        environment |= {"TF_CONFIG": json.dumps(config)} if workers > 1 else {}
        command = [sys.executable, "-m", "trainer.worker", "--job", str(path), "--attempt", "1"]
        with (path.parent / f"{rank}.log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    codes = [process.wait(timeout=280) for process in running]
    assert not any(codes), (path.parent / "0.log").read_text()[-3000:]
    found = newest_whole(RunDir(asked.storage.root, str(asked.run_id)))
    assert found is not None and found.step == asked.trainer.steps
    return found.tensors


def left_at(root: Path, step: int, run_id: str) -> JobSpec:
    """A job that stands where the calm run stood at `step`, as if it had been killed before it saved again."""
    source, copy = root / "runs" / "calm", root / "runs" / run_id
    for saved in range(EVERY, step + 1, EVERY):
        shutil.copytree(source / checkpoint_name(saved), copy / checkpoint_name(saved))
    return job(root, run_id)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phased-runs")
    prepare(job(folder, "prepare"))
    return folder


@pytest.fixture(scope="module")
def calm(root) -> dict[str, np.ndarray]:
    return run(job(root, "calm"))


def state_of(root: Path, step: int) -> dict[str, Any]:
    folder = root / "runs" / "calm" / checkpoint_name(step)
    return dict(json.loads(next(folder.glob("*-state.json")).read_text()))


def test_a_checkpoint_says_which_phase_it_is_of(root, calm):
    found = [state_of(root, step)["phase"]["number"] for step in range(EVERY, STEPS + 1, EVERY)]
    assert found == [0, 0, 1, 1, 2, 2], "a checkpoint at a change is still of the phase that ended"
    assert not any("adam" in name for name in calm) and any("sgd" in name for name in calm)


@pytest.mark.parametrize("step", [20, 30])
def test_a_run_goes_on_in_a_phase_or_at_a_change_with_the_same_bits(root, calm, step):
    found = run(left_at(root, step, f"from-{step}"))
    assert found.keys() == calm.keys()
    assert [name for name in calm if not np.array_equal(found[name], calm[name])] == []


def test_another_number_of_workers_goes_on_in_the_phase_it_finds(root, calm):
    found = run(left_at(root, 40, "two-workers"), workers=2)
    assert found.keys() == calm.keys()
    for name, value in calm.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name
