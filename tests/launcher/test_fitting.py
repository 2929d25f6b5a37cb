"""The micro-batch over a run: with auto the smallest answer of all workers; kept, and lowered when memory runs out."""

from dataclasses import replace

import pytest

from conf.schema import (
    AugmentSpec,
    BatchNormSync,
    DataSpec,
    JobSpec,
    ModelSpec,
    OptimizerSpec,
    Precision,
    Rematerialize,
    TrainerSpec,
    Verb,
)
from launcher.console import Console
from launcher.fitting import Fitting, probe_arguments
from launcher.messages import AgentReport
from launcher.recovery import Ending, Kind
from storage.run_dir import MICRO_BATCH, RunDir, probe_name
from storage.store import StoreError

JOB = JobSpec(run_id="x", trainer=TrainerSpec(global_batch_size=96, micro_batch="auto"))
EXHAUSTED = Ending(Kind.out_of_memory, rank=1, exit_code=1, step=5, first_step=1)


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    return RunDir(str(tmp_path), "x")


def fitting(run_dir: RunDir, job: JobSpec = JOB) -> Fitting:
    return Fitting(job, run_dir, Console(), 1)


def found(run_dir: RunDir, *sizes: int, job: JobSpec = JOB) -> Fitting:
    """After workers have answered with these sizes."""
    made = fitting(run_dir, job)
    assert made.has_to_probe
    assert made.probing(len(sizes)) == 96 // len(sizes)
    for rank, size in enumerate(sizes):
        run_dir.write_json(probe_name(1, rank), {"micro_batch": size, "limit_bytes": 10, "peak_bytes": 9.0})
    made.keep(1)
    return made


def test_the_smallest_answer_is_everybodys(run_dir, capsys):
    made = found(run_dir, 48, 16)
    assert made.fitted(JOB, 2).trainer.micro_batch == 16
    assert "micro-batches of 16, 3 an update" in capsys.readouterr().out
    (event,) = [event for event in run_dir.events() if event["kind"] == "micro_batch"]
    assert (event["rank"], event["details"]["micro_batch"], event["details"]["share"]) == (1, 16, 48)


def test_it_is_found_once_for_a_run_and_fits_other_numbers_of_workers(run_dir):
    found(run_dir, 16, 24)
    again = fitting(run_dir)
    assert not again.has_to_probe
    assert again.fitted(JOB, 2).trainer.micro_batch == 16
    assert again.fitted(JOB, 1).trainer.micro_batch == 16
    assert again.fitted(JOB, 4).trainer.micro_batch == 12  # of a share of 24


def test_memory_that_runs_out_makes_it_smaller_until_nothing_is_left(run_dir):
    made = found(run_dir, 4, 4)
    made.fitted(JOB, 2)
    for before, after in ((4, 3), (3, 2), (2, 1)):
        ending = made.after(1, EXHAUSTED)
        assert ending.smaller == f"micro-batches of {after} instead of {before}"
        assert fitting(run_dir).fitted(JOB, 2).trainer.micro_batch == after
    assert made.after(1, EXHAUSTED) == replace(EXHAUSTED, is_smallest=True)
    killed = replace(EXHAUSTED, kind=Kind.infrastructure)
    assert made.after(1, killed) is killed


def test_a_job_that_did_not_ask_goes_on_with_less_too(run_dir):
    plain = replace(JOB, trainer=TrainerSpec(global_batch_size=96, accumulation_steps=2))
    made = fitting(run_dir, plain)
    assert not made.has_to_probe and made.fitted(plain, 2) is plain
    for before, after in ((24, 16), (16, 12)):
        assert made.after(1, EXHAUSTED).smaller == f"micro-batches of {after} instead of {before}"
        fitted = fitting(run_dir, plain).fitted(plain, 2).trainer
        assert (fitted.micro_batch, fitted.accumulation_steps, fitted.global_batch_size) == (after, 1, 96)
    # Alone a replica takes twice as many examples, and as many at a time as fitted; of three each takes 32.
    assert [fitting(run_dir, plain).fitted(plain, workers).trainer.micro_batch for workers in (1, 3)] == [12, 8]


@pytest.mark.parametrize("code", [-9, None], ids=["worker", "agent"])
def test_who_is_killed_once_may_have_been_killed_for_somebody_elses_memory(run_dir, code):
    plain = replace(JOB, trainer=TrainerSpec(global_batch_size=96))
    made, killed = fitting(run_dir, plain), replace(EXHAUSTED, exit_code=code)
    made.fitted(plain, 2)
    assert made.after(1, killed) is killed and not run_dir.store.exists(MICRO_BATCH)
    assert made.after(2, killed).smaller == "micro-batches of 24 instead of 48"
    assert made.after(3, killed).smaller == "micro-batches of 16 instead of 24"


def test_a_batch_that_synchronized_batch_norm_sees_is_left_as_it_is(run_dir):
    trainer = TrainerSpec(global_batch_size=96, model=ModelSpec(batch_norm=BatchNormSync.synchronized))
    made = fitting(run_dir, replace(JOB, trainer=trainer))
    assert made.after(1, EXHAUSTED) is EXHAUSTED
    asked = replace(JOB, trainer=replace(trainer, micro_batch="auto"))
    assert fitting(run_dir, asked).after(1, EXHAUSTED).smaller, "who asks for it gets it"


def test_a_job_of_small_parts_keeps_them_on_fewer_workers(run_dir):
    """What was found with two workers is no reason to take more at a time than the job says."""
    plain = replace(JOB, trainer=TrainerSpec(global_batch_size=96, accumulation_steps=8))
    run_dir.write_json(MICRO_BATCH, {"micro_batch": 48})
    assert fitting(run_dir, plain).fitted(plain, 2).trainer.micro_batch == 6


def test_memory_that_runs_out_in_an_evaluation_of_another_size_is_not_the_micro_batchs(run_dir):
    evaluating = replace(EXHAUSTED, phase="evaluating")
    apart = replace(JOB, trainer=replace(JOB.trainer, eval_batch_size=96))
    assert found(run_dir, 48, 48, job=apart).after(1, evaluating) is evaluating
    assert fitting(run_dir).after(1, evaluating).smaller, "a batch of an evaluation follows the micro-batch"


def test_memory_that_runs_out_in_an_export_is_not_the_micro_batchs(run_dir):
    made = found(run_dir, 48, 48)
    exporting = replace(EXHAUSTED, phase="exporting")
    assert made.after(1, exporting) is exporting
    assert made.fitted(JOB, 2).trainer.micro_batch == 48


NEEDS_LESS = (
    replace(JOB.trainer, rematerialize=Rematerialize.blocks),
    replace(JOB.trainer, model=ModelSpec(name="mobilenetv2")),
    replace(JOB.trainer, precision=Precision.mixed_bfloat16),
)


@pytest.mark.parametrize("trainer", NEEDS_LESS, ids=("rematerialize", "model", "precision"))
def test_what_was_found_says_nothing_of_a_job_that_needs_less(run_dir, trainer):
    """Else a run that went down to single examples would stay there with what was advised to it."""
    found(run_dir, 1, 1)
    other = replace(JOB, trainer=trainer)
    assert fitting(run_dir, other).has_to_probe
    plain = replace(other, trainer=replace(trainer, micro_batch=None))
    made = fitting(run_dir, plain)
    assert made.fitted(plain, 2) is plain
    assert made.after(1, EXHAUSTED).smaller == "micro-batches of 24 instead of 48"
    rated = replace(JOB, trainer=replace(JOB.trainer, optimizer=OptimizerSpec(learning_rate=0.5), epochs=7))
    run_dir.store.delete(MICRO_BATCH)
    found(run_dir, 4, 4)
    assert fitting(run_dir, rated).fitted(rated, 2).trainer.micro_batch == 4, "which needs as much"


@pytest.mark.parametrize("text", ["[]", "{}", '{"micro_batch": 0}', '{"micro_batch": "auto"}', "{"])
def test_a_file_that_says_nothing_is_refused_by_name(run_dir, text):
    run_dir.store.put(MICRO_BATCH, text.encode())
    with pytest.raises(StoreError, match=rf"{MICRO_BATCH}: not .* remove"):
        fitting(run_dir).fitted(JOB, 2)


def test_pairs_stay_pairs(run_dir):
    mixing = replace(JOB, data=DataSpec(augment=AugmentSpec(mixup=0.2)))
    made = found(run_dir, 4, 4, job=mixing)
    made.fitted(mixing, 2)
    assert made.after(1, EXHAUSTED).smaller == "micro-batches of 2 instead of 4"


def test_a_number_is_left_alone_and_other_verbs_need_none(run_dir):
    fixed = replace(JOB, trainer=replace(JOB.trainer, micro_batch=8))
    made = fitting(run_dir, fixed)
    assert not made.has_to_probe and made.fitted(fixed, 2) is fixed
    assert made.after(1, EXHAUSTED) is EXHAUSTED
    evaluating = replace(JOB, job=Verb.evaluate)
    made = fitting(run_dir, evaluating)
    assert not made.has_to_probe and made.fitted(evaluating, 2).trainer.micro_batch is None
    assert not run_dir.store.exists(MICRO_BATCH)


def test_workers_of_one_host_share_its_memory():
    reports = [AgentReport(rank, host, "127.0.0.1", 1, 1, 2, (), {}) for rank, host in enumerate("aab")]
    assert probe_arguments(1, 32, reports) == ("--rank", "1", "--workers", "3", "--share", "32", "--neighbours", "2")
    assert probe_arguments(2, 32, reports)[-1] == "1"
