"""job=checkpoints through the whole command, on a run of few steps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from storage.run_dir import RunDir
from trainer.checkpoints import newest_whole

ROOT = Path(__file__).resolve().parents[2]


def convoy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launcher/run.py", f"storage.root={folder}", "run_id=r", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    words = ["trainer.steps=20", "trainer.checkpoint_every_steps=5", "trainer.eval_every_steps=5"]
    words += ["trainer.keep_checkpoints=4", "trainer.export_at_end=false", "trainer.evaluate_at_end=false"]
    done = convoy(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.timeout(600)
def test_they_are_listed_verified_exported_and_pruned(trained):
    listed = convoy(trained, "job=checkpoints")
    rows = [line.split() for line in listed.stdout.splitlines() if line.strip().endswith("sizes")]
    assert listed.returncode == 0 and [row[0] for row in rows] == ["5", "10", "15", "20"]
    assert float(rows[-1][3]) > float(rows[0][3]) > 0.05, "the accuracies of four evaluations"

    name = next((trained / "r" / "checkpoints" / "step_00000015").glob("*.safetensors"))
    data = bytearray(name.read_bytes())
    data[-1] ^= 1
    name.write_bytes(data)
    assert "crc32c" not in convoy(trained, "job=checkpoints").stdout
    verified = convoy(trained, "job=checkpoints", "checkpoints.verify=true").stdout.splitlines()
    assert "crc32c" in next(line for line in verified if line.split()[:1] == ["15"])
    assert "checksums verified" in next(line for line in verified if line.split()[:1] == ["20"])

    exported = convoy(trained, "job=checkpoints", "checkpoints.export=keras")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    model = keras.saving.load_model(trained / "r" / "export" / "model.keras")
    saved = newest_whole(RunDir(str(trained), "r"))
    assert saved is not None and saved.step == 20
    weights = {tuple(w.shape): w for w in model.get_weights()}
    found = [tensor for tensor in saved.tensors.values() if tensor.shape in weights and tensor.ndim > 1]
    assert len(weights) > 4 and any(np.array_equal(tensor, weights[tensor.shape]) for tensor in found)

    name.write_bytes(data[:-1])  # what even a look at the sizes finds
    pruned = convoy(trained, "job=checkpoints", "checkpoints.prune=true")
    assert (pruned.returncode, "removed those of step 15" in pruned.stdout) == (0, True), "the broken one"
    assert [path.name[-2:] for path in sorted((trained / "r" / "checkpoints").iterdir())] == ["05", "10", "20"]


@pytest.mark.parametrize("words", [("job=evaluate",), ("job=export",), ("job=checkpoints", "checkpoints.export=keras")])
def test_weights_that_nobody_trained_are_neither_measured_nor_exported(trained, words):
    """By the command, and (once, for it takes its time) by a worker that is started alone."""
    run = trained / "r"
    shutil.move(run / "checkpoints", trained / "kept")
    (run / "checkpoints" / "step_00000005").mkdir(parents=True)
    shutil.copy(next((trained / "kept" / "step_00000005").glob("*.safetensors")), run / "checkpoints" / "step_00000005")
    try:
        before = sorted(path for path in run.rglob("*") if path.is_file())
        tried = [convoy(trained, *words)]
        if words == ("job=evaluate",):
            alone = [sys.executable, "-m", "trainer.worker", "--job", str(run / "job.yaml"), "--task", "evaluate"]
            tried.append(subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, timeout=300))
        for refused in tried:
            assert refused.returncode == 78
            assert "run_id=r - this run has no checkpoint yet" in refused.stdout + refused.stderr
        assert sorted(path for path in run.rglob("*") if path.is_file()) == before
    finally:
        shutil.rmtree(run / "checkpoints")
        shutil.move(trained / "kept", run / "checkpoints")


def test_a_run_that_is_not_there_is_refused(tmp_path):
    refused = convoy(tmp_path, "job=checkpoints")
    assert refused.returncode == 78 and "run_id=r" in refused.stdout + refused.stderr
