"""`job=benchmark`, as typed: of a new job on two workers, and of a run, which it leaves as it was."""

import math

import pytest

from launcher.lease import Lease
from storage.run_dir import RunDir
from trainer.verdict import Limit, Speeds, limit_of


def sane(report: dict) -> None:
    """Every field is there, and the numbers agree with one another."""
    for phase in report["measured"].values():
        assert phase["examples"] > 0 and phase["seconds"] >= 0.4  # asked: 0.4 s
        assert phase["examples_per_s"] == pytest.approx(phase["examples"] / phase["seconds"])
        assert phase["step_s"] == pytest.approx(report["global_batch_size"] / phase["examples_per_s"])
    assert list(report["measured"]) == ["reader", "model", "both"]
    speeds = Speeds(**{name: phase["examples_per_s"] for name, phase in report["measured"].items()})
    assert all(math.isfinite(speed) for speed in vars(speeds).values())
    assert report["verdict"] == limit_of(speeds).value
    assert report["input_bound"] is (limit_of(speeds) is not Limit.compute)
    assert report["reason"] and report["advice"][-1]["try"] == "cluster=..."
    assert {"precision", "device", "model", "data", "image_size"} <= report.keys()


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_job_is_measured_on_its_cluster(convoy):
    said = convoy.run("job=benchmark", "run_id=speed", "benchmark.seconds=0.4", "cluster=2cpu")
    report = convoy.json("speed", "report/benchmark.json")
    sane(report)
    assert (report["workers"], report["replicas"], report["device"]) == (2, 2, "CPU")
    assert "preparing digits" in said and "the reader alone" in said and f"{report['verdict']}: " in said
    left = {path.name for path in (convoy.runs / "speed").iterdir()}
    assert left == {"attempts", "events.jsonl", "report"}  # no checkpoint, no job that could go on


def test_a_run_stays_as_it_was(convoy):
    convoy.run("run_id=mine", "trainer.steps=20", "trainer.checkpoint_every_steps=20", "trainer.export_at_end=false")
    with Lease(RunDir(str(convoy.runs), "mine")):  # as if it trained: one would only measure the other
        assert "is driving this run" in convoy.run("job=benchmark", "run_id=mine", expect=78)
    before = contents(convoy.runs / "mine")
    convoy.run("job=benchmark", "run_id=mine", "benchmark.seconds=0.4")
    sane(convoy.json("mine", "report/benchmark.json"))
    after = contents(convoy.runs / "mine")
    changed = {str(path) for path in after if after[path] != before.get(path)}
    assert before.keys() <= after.keys()
    own = {"events.jsonl", "report/benchmark.json", "attempts/02/job.yaml", "attempts/02/rank_0.log"}
    own.add("attempts/02/taken_by.json")
    assert changed == own
    assert "is finished (20 steps)" in convoy.run("run_id=mine")
