"""Laws 4 and 10: a run that was interrupted equals one that was not, and nothing of it is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from launcher.goodput import PARTS
from tests.curves import curve

#: Batches of 32 of 1259 digits: 39 steps an epoch. Checkpoints and stops fall into the middle of epochs.
JOB = (
    "trainer.global_batch_size=32",
    "trainer.accumulation_steps=2",
    "trainer.steps=300",
    "trainer.checkpoint_every_steps=30",
    "trainer.steps_per_loop=5",
    "trainer.model.options.batch_norm=true",
    "data.augment.pad_crop=1",
    "trainer.evaluate_at_end=false",
    "trainer.export_at_end=false",
)


def weights(convoy, run_id: str, step: int) -> dict[str, np.ndarray]:
    folder = convoy.runs / run_id / "checkpoints" / f"step_{step:08d}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == step
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    assert any(name.startswith("optimizer/") for name in found)
    return found


def assert_same_bits(convoy, one: str, other: str, step: int = 300) -> None:
    left, right = weights(convoy, one, step), weights(convoy, other, step)
    assert left.keys() == right.keys()
    differing = [name for name in left if not np.array_equal(left[name], right[name])]
    assert not differing


def losses(convoy, run_id: str, split: str) -> list[tuple[int, float]]:
    return curve(convoy.runs / run_id / "tensorboard" / split, "loss")


@pytest.fixture(scope="module")
def calm(convoy):
    """One uninterrupted run on one worker, one on two."""
    for workers in (1, 2):
        begun = time.time()
        convoy.run(f"run_id=calm{workers}", f"cluster={workers}cpu", *JOB)
        found = goodput_since(convoy, f"calm{workers}", begun)
        assert (found["attempts"], found["steps"], found["lost_steps"]) == (1, 300, 0)
        assert found["parts_s"]["lost_work"] == found["parts_s"]["restart"] == 0


def goodput_since(convoy, run_id: str, begun: float) -> dict[str, Any]:
    """The account of a run that one command drove: its parts are the whole, which is the real time of the command."""
    found = convoy.json(run_id, "report/goodput.json")
    real = (convoy.runs / run_id / "report" / "goodput.json").stat().st_mtime - begun
    assert abs(found["wall_s"] - real) < 0.5 and found["wall_s"] > 2
    assert sum(found["parts_s"].values()) == pytest.approx(found["wall_s"], abs=0.01)
    assert min(found["parts_s"].values()) >= 0
    assert all(
        found["parts_s"][part] > 0 for part in ("training", "input_wait", "checkpoint", "evaluation", "start_up")
    )
    return found


def assert_status_shows(convoy, run_id: str, found: dict[str, Any]) -> None:
    """The same account in `job=status`, whose parts are the whole too."""
    said = convoy.run("job=status", f"run_id={run_id}")
    whole = re.search(r"^goodput +\d+% of ([\d.]+) s in (\d+) attempt", said, re.M)
    assert whole and (float(whole[1]), int(whole[2])) == (pytest.approx(found["wall_s"], abs=0.06), found["attempts"])
    shown = {words: float(seconds) for words, seconds in re.findall(r"^  (\S.*?) +([\d.]+) s +[\d.]+%$", said, re.M)}
    parts = {PARTS[name]: seconds for name, seconds in found["parts_s"].items() if seconds > 0.06}
    assert parts.keys() <= shown.keys()
    assert {words: shown[words] for words in parts} == pytest.approx(parts, abs=0.06)
    assert sum(shown.values()) == pytest.approx(found["wall_s"], abs=0.06 * len(PARTS))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_and_the_end_is_the_same(calm, convoy, workers):
    run_id, begun = f"killed{workers}", time.time()
    process = convoy.start(f"run_id={run_id}", f"cluster={workers}cpu", *JOB)
    convoy.wait_for(run_id, "checkpoint_saved", process)
    started = {event["rank"]: event["details"]["pid"] for event in convoy.events(run_id, "worker_started")}
    os.kill(started[workers - 1], signal.SIGKILL)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said[-3000:]
    outcome = convoy.json(run_id, "outcome.json")
    assert outcome["state"] == "succeeded" and outcome["attempts"] >= 2
    restored = convoy.events(run_id, "restored")[-1]["details"]["step"]
    spent = goodput_since(convoy, run_id, begun)
    assert_status_shows(convoy, run_id, spent)
    assert (spent["attempts"], spent["steps"]) == (outcome["attempts"], 300)
    told = [event["details"]["spent"]["step"] for event in convoy.events(run_id, "attempt_ended")]
    assert spent["lost_steps"] == told[-2] - restored
    assert (spent["parts_s"]["lost_work"] > 0) == (spent["lost_steps"] > 0) and spent["parts_s"]["restart"] > 0
    assert_same_bits(convoy, run_id, f"calm{workers}")
    for split in ("train", "validation"):
        assert losses(convoy, run_id, split) == losses(convoy, f"calm{workers}", split)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_saves_and_the_same_command_goes_on_in_the_middle_of_an_epoch(calm, convoy, workers):
    run_id = f"stopped{workers}"
    process = convoy.start(f"run_id={run_id}", f"cluster={workers}cpu", *JOB)
    convoy.wait_for(run_id, "checkpoint_saved", process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said[-3000:]
    assert f"run_id={run_id}" in said
    outcome = convoy.json(run_id, "outcome.json")
    assert outcome["state"] == "stopped" and 30 <= outcome["step"] < 300
    assert (convoy.runs / run_id / "checkpoints" / f"step_{outcome['step']:08d}" / "manifest.json").exists()
    convoy.run(f"run_id={run_id}")
    assert convoy.events(run_id, "restored")[0]["details"]["step"] == outcome["step"]
    assert convoy.json(run_id, "outcome.json")["state"] == "succeeded"
    assert_same_bits(convoy, run_id, f"calm{workers}")
    assert losses(convoy, run_id, "train") == losses(convoy, f"calm{workers}", "train")


def test_a_worker_that_is_told_to_leave_takes_nothing_with_it(calm, convoy):
    """A pre-emption: SIGTERM to one worker of two. The last step that was computed is the one that all saved."""
    process = convoy.start("run_id=preempted", "cluster=2cpu", "cluster.max_restarts=0", *JOB)
    convoy.wait_for("preempted", "checkpoint_saved", process)
    started = {event["rank"]: event["details"]["pid"] for event in convoy.events("preempted", "worker_started")}
    os.kill(started[1], signal.SIGTERM)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said[-3000:]
    ended = next(e for e in convoy.events("preempted", "attempt_ended") if e["details"]["kind"] == "preempted")
    computed = ended["details"]["spent"]["step"]  # by the chief's own ledger, which knows nothing of checkpoints
    assert 30 <= computed < 300
    attempt = ended["attempt"]
    saved = [e["details"]["step"] for e in convoy.events("preempted", "checkpoint_saved") if e["attempt"] == attempt]
    assert saved[-1] == computed
    restored = {e["rank"]: e["details"]["step"] for e in convoy.events("preempted", "restored")}
    assert restored == {0: computed, 1: computed}
    assert convoy.json("preempted", "report/goodput.json")["lost_steps"] == 0
    assert "rank 1 was told to leave (SIGTERM)" in said and "(not counted)" in said
    assert not convoy.events("preempted", "grace_exceeded")
    assert_same_bits(convoy, "preempted", "calm2")


def test_sigterm_to_the_whole_process_group_saves(convoy):
    """As `timeout` and service managers send it: Ray's servers must not end under the workers."""
    process = convoy.start("run_id=terminated", *JOB)
    convoy.wait_for("terminated", "checkpoint_saved", process)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said[-3000:]
    outcome = convoy.json("terminated", "outcome.json")
    assert outcome["state"] == "stopped" and 30 <= outcome["step"] < 300
    assert convoy.events("terminated", "attempt_ended")[-1]["details"]["spent"]["step"] == outcome["step"]
    assert (convoy.runs / "terminated" / "checkpoints" / f"step_{outcome['step']:08d}" / "manifest.json").exists()


def test_one_worker_goes_on_where_two_stopped(convoy):
    """Without dropout and BatchNorm the number of workers is no part of the arithmetic."""
    plain = (*JOB, "trainer.model.options.batch_norm=false", "trainer.model.dropout=0", "trainer.optimizer.name=sgd")
    convoy.run("run_id=plain", *plain)
    process = convoy.start("run_id=shrunk", "cluster=2cpu", *plain)
    convoy.wait_for("shrunk", "checkpoint_saved", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    stopped = convoy.json("shrunk", "outcome.json")["step"]
    assert 30 <= stopped < 300
    convoy.run("run_id=shrunk", "cluster=1cpu")
    assert convoy.events("shrunk", "restored")[0]["details"]["step"] == stopped
    left, right = weights(convoy, "shrunk", 300), weights(convoy, "plain", 300)
    assert left.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_allclose(left[name], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1), err_msg=name)


def test_a_worker_runs_alone_without_ray(calm, convoy):
    """What a person starts under a debugger: the same job, the same bits, no launcher."""
    folder = convoy.runs / "alone"
    folder.mkdir()
    (folder / "job.yaml").write_text(
        (convoy.runs / "calm1" / "job.yaml").read_text().replace("run_id: calm1", "run_id: alone")
    )
    line = [sys.executable, "-m", "trainer.worker", "--job", str(folder / "job.yaml")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(line, cwd=convoy.repository, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "progress" in done.stdout and "loss=" in done.stdout
    assert_same_bits(convoy, "alone", "calm1")
