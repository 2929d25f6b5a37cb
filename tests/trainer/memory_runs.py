"""What has to be measured or takes whole runs: peaks, what fits, a model over several devices. `make memory`."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conf.schema import DataSpec, JobSpec, ModelSpec, StorageSpec, TrainerSpec
from data_pipeline.prepare import prepare
from storage.run_dir import RunDir, probe_name
from tests.trainer import test_probe
from tests.trainer.test_probe import MIB, limited, run
from trainer.checkpoints import newest_whole

ROOT = Path(__file__).resolve().parents[2]
job = test_probe.job
pytestmark = pytest.mark.timeout(1500)


def test_blocks_take_less_memory_at_their_peak():
    """Each in a process of its own: its high-water mark above what it had before the first step."""

    def peak(mode: str) -> float:
        command = [sys.executable, "-m", "benchmarks.memory_step", "mobilenetv2", "96", "64", mode]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]

    assert peak("blocks") < 0.9 * peak("none")


def test_what_fits_is_found_and_what_does_not_is_survived(job):
    store, place = RunDir(job.storage.root, "x"), ("--workers", "1", "--rank", "0")
    alone = run("trainer.probe", limited(job, 2**40), *place, "--attempt", "1", "--share", "17")
    assert alone.returncode == 0, alone.stderr[-2000:]
    taken = store.read_json(probe_name(1, 0))
    assert taken["micro_batch"] == 17 and taken["peak_bytes"] < taken["limit_bytes"]
    # 1, 17 and 289 divide a share of 289: the whole has 500 MB of activations more than this leaves.
    narrow = limited(job, int(taken["peak_bytes"]) + 100 * MIB)
    found = run("trainer.probe", narrow, *place, "--attempt", "2", "--share", "289")
    assert found.returncode == 0, found.stderr[-2000:]
    answer = store.read_json(probe_name(2, 0))
    assert answer["micro_batch"] == 17
    assert answer["peak_bytes"] <= answer["limit_bytes"] == narrow.cluster.memory_limit_bytes


def staged(root: Path, stages: int) -> JobSpec:
    model = ModelSpec(stages=stages, options={"filters": [8, 8], "dense": 16, "batch_norm": True})
    trainer = TrainerSpec(model=model, steps=12, eval_every_steps=6, checkpoint_every_steps=6, ema_decay=0.9)
    data = DataSpec(out=str(root / "data"), channels=1)
    return JobSpec(run_id=f"stages{stages}", data=data, trainer=trainer, storage=StorageSpec(root=str(root / "runs")))


def test_a_run_on_two_devices_is_the_run_on_one(tmp_path):
    """Checkpoints, averages, evaluation, report and export of a model that is split: the same as of one that is not."""
    (tmp_path / "runs").mkdir()
    prepare(staged(tmp_path, 1))
    found = {}
    for stages in (1, 2):
        asked = staged(tmp_path, stages)
        done = run("trainer.worker", asked)
        assert done.returncode == 0, done.stderr[-3000:]
        run_dir = RunDir(asked.storage.root, str(asked.run_id))
        found[stages] = newest_whole(run_dir), run_dir.read_json("report/metrics.json")
        assert (tmp_path / "runs" / asked.run_id / "export" / "saved_model" / "saved_model.pb").exists()
    (one, report), (two, other) = found[1], found[2]
    assert one.step == two.step == 12 and one.tensors.keys() == two.tensors.keys()
    assert sum(name.startswith("ema/") for name in one.tensors) > 8
    for name, value in one.tensors.items():
        assert np.abs(two.tensors[name] - value).max(initial=0) <= 1e-5 * max(np.abs(value).max(initial=0), 1e-3), name
    assert other["loss"] == pytest.approx(report["loss"], rel=1e-5)
    # A checkpoint fits however the model is split: the run of two devices goes on on one.
    asked = staged(tmp_path, 1)
    again = dataclasses.replace(asked, run_id="stages2", trainer=dataclasses.replace(asked.trainer, steps=18))
    done = run("trainer.worker", again)
    assert done.returncode == 0, done.stderr[-3000:]
    assert newest_whole(RunDir(again.storage.root, "stages2")).step == 18
