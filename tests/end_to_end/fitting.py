"""The micro-batch of whole jobs: found with `auto`, kept, made smaller when memory runs out. `make memory`."""

import numpy as np
import pytest

from conf.files import load_job
from storage.run_dir import RunDir
from trainer.checkpoints import newest_whole

pytestmark = pytest.mark.timeout(1200)

JOB = [
    *("data=synthetic", "data.num_examples=512", "data.image_size=32", "trainer.micro_batch=auto"),
    *(
        "trainer.global_batch_size=96",
        "trainer.steps=12",
        "trainer.steps_per_loop=2",
        "trainer.checkpoint_every_steps=4",
    ),
    *("trainer.evaluate_at_end=false", "trainer.export_at_end=false", "cluster.max_restarts=0"),
]
#: For each shape: its words, and the worker whose memory runs out. Of one replica: memory_runs.py.
SHAPES = {"mirrored": (["cluster=2gpu", "cluster.accelerator=cpu"], 0), "workers": (["cluster=2cpu"], 1)}


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_that_runs_out_costs_a_smaller_micro_batch_and_no_restart(convoy, shape):
    cluster, rank = SHAPES[shape]
    words = (f"run_id={shape}", f"fault.exhaust_rank={rank}", "fault.at_step=6")
    said = convoy.run(*JOB, *cluster, *words, timeout_s=400)
    assert "micro-batches of 48, 1 an update (fits)" in said
    assert (
        "going on with micro-batches of 24 instead of 48; starting again from the last checkpoint (not counted)" in said
    )
    found = [event["details"]["micro_batch"] for event in convoy.events(shape, "micro_batch")]
    assert found == [48, 24]
    assert convoy.json(shape, "outcome.json")["state"] == "succeeded"
    sizes = [attempt_job(convoy, number, shape).trainer.micro_batch for number in (1, 2)]
    assert sizes == [48, 24]
    assert load_job((convoy.runs / shape / "job.yaml").read_text(), shape).trainer.micro_batch == "auto"


def attempt_job(convoy, number: int, run_id: str):
    return load_job((convoy.runs / run_id / "attempts" / f"{number:02d}" / "job.yaml").read_text(), run_id)


def test_a_job_that_did_not_ask_goes_on_with_less_and_learns_the_same(convoy):
    """SGD on a model without BatchNorm, where the cut changes nothing but rounding."""
    plain = ["trainer.micro_batch=null", "trainer.model.dropout=0", "trainer.optimizer.name=sgd"]
    words = [*JOB, *SHAPES["workers"][0], *plain, "trainer.optimizer.learning_rate=0.05"]
    said = convoy.run(*words, "run_id=less", "fault.exhaust_rank=0", "fault.at_step=6", timeout_s=400)
    assert "going on with micro-batches of 24 instead of 48" in said and "looking for" not in said
    assert [attempt_job(convoy, number, "less").trainer.micro_batch for number in (1, 2)] == [None, 24]
    convoy.run(*words, "run_id=calm", timeout_s=400)
    less, calm = (newest_whole(RunDir(str(convoy.runs), run_id)) for run_id in ("less", "calm"))
    assert less.step == calm.step == 12 and less.tensors.keys() == calm.tensors.keys()
    for name, value in calm.tensors.items():
        np.testing.assert_allclose(less.tensors[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert any(not np.array_equal(less.tensors[name], calm.tensors[name]) for name in calm.tensors), "it was one pass"


def test_what_was_found_is_kept_by_a_run_that_goes_on_and_stages_work_with_workers(convoy):
    words = [*JOB, *SHAPES["workers"][0], "run_id=y", "trainer.model.stages=2", "trainer.rematerialize=blocks"]
    process = convoy.start(*words, "trainer.steps=4000")
    convoy.wait_for("y", "checkpoint_saved", process, 300)
    convoy.run("job=stop", "run_id=y")
    process.communicate(timeout=120)
    assert process.returncode == 75
    (first,) = convoy.events("y", "micro_batch")
    last = convoy.events("y", "checkpoint_saved")[-1]["details"]["step"]
    process = convoy.start("run_id=y")
    convoy.wait_for("y", "restored", process, 300)
    convoy.run("job=stop", "run_id=y")
    process.communicate(timeout=120)
    assert [event["details"]["step"] for event in convoy.events("y", "restored")] == [last] * 2
    assert len(convoy.events("y", "micro_batch")) == 1
    assert attempts_of(convoy) == [first["details"]["micro_batch"]] * 2


def attempts_of(convoy) -> list[object]:
    paths = sorted((convoy.runs / "y" / "attempts").glob("*/job.yaml"))
    return [load_job(path.read_text(), "y").trainer.micro_batch for path in paths]
