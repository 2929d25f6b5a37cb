"""Whole runs of one worker without Ray: what precision does, what the number of cores must not do, what is left."""

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
from conf.schema import DataSpec, JobSpec, ModelSpec, PhaseSpec, Precision, StorageSpec, TrainerSpec
from data_pipeline.prepare import prepare
from storage.run_dir import RunDir
from trainer.channel import CONTROL_FD, PROGRESS_FD
from trainer.checkpoints import newest_whole

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60


def job(root: Path, run_id: str, weights: str = "none", **trainer: Any) -> JobSpec:
    model = ModelSpec(dropout=0.25, weights=weights)
    settings = {"steps": STEPS, "checkpoint_every_steps": 20, "export_at_end": False} | trainer
    data = DataSpec(out=str(root / "data"), channels=1)
    return JobSpec(
        run_id=run_id,
        data=data,
        trainer=TrainerSpec(model=model, **settings),
        storage=StorageSpec(root=str(root / "runs")),
    )


def run(
    asked: JobSpec, cores: set[int] | None = None, temp: Path | None = None, timeout_s: float = 300
) -> dict[str, np.ndarray]:
    """Run it to its end; its last checkpoint."""
    path = Path(asked.storage.root) / str(asked.run_id) / "job.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_job(asked))
    done = subprocess.run(
        [sys.executable, "-m", "trainer.worker", "--job", str(path)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"} | ({"TMPDIR": str(temp)} if temp else {}),
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = newest_whole(RunDir(asked.storage.root, str(asked.run_id)))
    assert found is not None and found.step == asked.trainer.steps
    return found.tensors


def accuracy(asked: JobSpec) -> float:
    return float(RunDir(asked.storage.root, str(asked.run_id)).read_json("report/metrics.json")["accuracy"])


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("worker-runs")
    prepare(job(folder, "prepare"))
    return folder


@pytest.fixture(scope="module")
def calm(root) -> dict[str, np.ndarray]:
    temp = root / "temp"
    temp.mkdir()
    return run(job(root, "calm"), temp=temp)


def test_nothing_is_left_in_the_temporary_folder(root, calm):
    """Such as the code that AutoGraph generates. What a killed worker leaves, its agent removes (test_child.py)."""
    assert list((root / "temp").iterdir()) == []


@pytest.mark.parametrize("precision", [Precision.mixed_bfloat16, Precision.mixed_float16])
def test_mixed_precision_computes_otherwise_and_learns_as_well(root, calm, precision):
    mixed = job(root, precision.name, precision=precision)
    found = run(mixed)
    same = [np.array_equal(found[name], calm[name]) for name in calm if calm[name].dtype == np.float32]
    assert same and not all(same), "the arithmetic was float32's"
    assert all(found[name].dtype == calm[name].dtype for name in calm), "variables stay float32"
    assert accuracy(mixed) > 0.85 and abs(accuracy(mixed) - accuracy(job(root, "calm"))) < 0.06


def test_a_run_in_float16_goes_on_with_its_loss_scale(root):
    """All other state: the phased runs, and `make law4`."""
    asked = job(root, Precision.mixed_float16.name, precision=Precision.mixed_float16)
    calm = run(asked)  # ends at once where the test above has trained it
    step = Path("checkpoints", "step_00000020")
    shutil.copytree(root / "runs" / str(asked.run_id) / step, root / "runs" / "resumed" / step)
    found = run(job(root, "resumed", precision=Precision.mixed_float16))
    assert found.keys() == calm.keys()
    assert [name for name in calm if not np.array_equal(found[name], calm[name])] == []
    assert STEPS - 20 < found["loss_scale/good_steps"] <= STEPS, "counted on from the checkpoint"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_run_that_goes_on_with_other_cores_ends_with_the_same_bits(root, calm):
    run(job(root, "moved", steps=20))
    found = run(job(root, "moved"), cores={min(os.sched_getaffinity(0))})
    assert found.keys() == calm.keys()
    assert [name for name in calm if not np.array_equal(found[name], calm[name])] == []


def test_a_run_begins_with_the_weights_of_another_and_goes_on_without_them(root, calm):
    given, step = root / "given", root / "given" / "checkpoints" / "step_00000007"
    shutil.copytree(root / "runs" / "calm" / "checkpoints" / f"step_{STEPS:08d}", step)
    manifest = step / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"step": {STEPS}', '"step": 7'))
    head = {"phases": [PhaseSpec(trainable="head")], "ema_decay": 0.9}  # the averages of what is frozen are the weights
    tuned = {"weights": str(given), "steps": 20, "checkpoint_every_steps": 10} | head
    whole = run(job(root, "tuned", **tuned))
    assert accuracy(job(root, "tuned")) > 0.85  # without them, less than 0.75
    run(job(root, "tuned-in-two", **tuned | {"steps": 10}))
    shutil.rmtree(given)
    found = run(job(root, "tuned-in-two", **tuned))
    assert [name for name in whole if not np.array_equal(found[name], whole[name])] == []


def test_a_deterministic_run_trains_and_leaves_the_same_bits_again(root: Path) -> None:
    """Large models, whose bits are at stake, are in `make models`; here it is seen that nothing stands in the way."""
    few = {"steps": 10, "log_every_steps": 5, "deterministic": True, "evaluate_at_end": False}
    one, other = (run(job(root, f"deterministic-{number}", **few)) for number in range(2))
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {n: t.tobytes() for n, t in other.items()}
    assert np.abs(next(t for n, t in one.items() if n.endswith("kernel_momentum"))).max() > 0


def test_a_change_of_phase_is_told_as_the_compiling_that_it_is(root):
    asked = job(root, "told", steps=4, phases=[PhaseSpec(steps=2), PhaseSpec()], evaluate_at_end=False)
    path = Path(asked.storage.root) / "told" / "job.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(dump_job(asked))
    (heard, progress), (control, _alive) = os.pipe(), os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "trainer.worker", "--job", str(path)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", PROGRESS_FD: str(progress), CONTROL_FD: str(control)},
        pass_fds=(progress, control),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    os.close(progress)
    with os.fdopen(heard) as lines:
        told = [json.loads(line) for line in lines]
    said = [(one.get("event") or one.get("phase"), one.get("step")) for one in told]
    change = said.index(("phase", None))
    assert said[change + 1] == ("compiling", 2)
    assert ("training", 4) in said[change + 2 :] and ("compiling", 2) not in said[:change]
