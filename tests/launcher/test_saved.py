"""A run that exists: what may change, what may not, and how a difference is shown."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from conf.errors import BadSpec
from conf.schema import BadFile, BadRecord, OnBlowUp, Rematerialize
from launcher.compose import Asked, compose
from launcher.lease import EXPIRES_S, LEASE, Lease, Owner, birth, is_alive
from launcher.saved import amended, beginning, existing_run, freeze, is_new, open_run, outcome, reconcile
from storage.run_dir import FIND_LR, JOB, OUTCOME, SWEEP, RunDir, checkpoint_name
from storage.store import StoreError

OPTIONS = ["trainer.model.options.dense=64", "trainer.model.options.depth=2"]
SAVED = compose(["run_id=x", "trainer.steps=100", "data.image_size=8", "cluster=2cpu", "seed=3", *OPTIONS]).job


@pytest.mark.parametrize(
    "words",
    [
        [],  # nothing said: everything as it was
        ["trainer.steps=100"],
        ["trainer.steps=100", "data.image_size=8", "seed=3"],
        ["data.image_size=8"],  # the rest of a group that is not chosen anew stays as it was
        ["trainer.model.options.dense=64"],
        ["cluster=4cpu"],
        ["dry_run=true"],
    ],
)
def test_a_run_goes_on_with_its_own_learning(words):
    job = reconcile(SAVED, compose(words))
    assert (job.trainer, job.data, job.seed) == (SAVED.trainer, SAVED.data, SAVED.seed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.steps=200"], ["trainer.steps=200", "begun with 100"]),
        (["trainer.global_batch_size=32"], ["trainer.global_batch_size=32", "begun with 64"]),
        (["trainer=xception"], ["trainer.name=xception", "begun with convnet"]),
        (["data=mnist"], ["data.name=mnist", "data.image_size=null", "begun with 8"]),
        (["seed=4"], ["seed=4", "begun with 3"]),
        (["trainer.steps=100", "trainer.precision=mixed_bfloat16"], ["mixed_bfloat16", "begun with float32"]),
    ],
)
def test_another_learning_is_refused_field_by_field(words, said):
    with pytest.raises(BadSpec) as refused:
        reconcile(SAVED, compose(words))
    for text in said:
        assert text in str(refused.value)
    assert "another run_id" in str(refused.value)


def test_what_to_do_about_a_blow_up_may_change():
    words = ["trainer.on_blow_up=skip", "trainer.max_blow_ups=9", "trainer.blow_up_factor=7"]
    trainer = reconcile(SAVED, compose(words)).trainer
    assert (trainer.on_blow_up, trainer.max_blow_ups, trainer.blow_up_factor) == (OnBlowUp.skip, 9, 7.0)
    assert trainer.steps == SAVED.trainer.steps


def test_what_needs_less_memory_for_the_same_update_may_change():
    trainer = reconcile(SAVED, compose(["trainer.micro_batch=auto", "trainer.rematerialize=blocks"])).trainer
    assert (trainer.micro_batch, trainer.rematerialize) == ("auto", Rematerialize.blocks)
    assert reconcile(SAVED, compose(["trainer.accumulation_steps=4"])).trainer.accumulation_steps == 4
    assert reconcile(SAVED, compose([])).trainer == SAVED.trainer


def test_what_to_do_about_corrupt_records_may_change():
    job = reconcile(SAVED, compose(["data.on_corrupt=skip", "data.max_corrupt=9"]))
    assert (job.data.on_corrupt, job.data.max_corrupt) == (BadRecord.skip, 9)
    assert job.data.name == SAVED.data.name


def test_the_cluster_comes_from_the_command_line_if_it_speaks_of_it_else_from_the_file():
    assert reconcile(SAVED, compose(["seed=3"])).cluster == SAVED.cluster
    assert reconcile(SAVED, compose(["cluster=4cpu"])).cluster.workers == 4


def asked(tmp_path: Path, *words: str) -> Asked:
    return compose([*words, f"storage.root={tmp_path}"])


def learnt(run_dir: RunDir) -> None:
    """A checkpoint, as far as anybody looks here."""
    run_dir.store.put(f"{checkpoint_name(3)}/manifest.json", b"{}")


def test_typed_keys_are_laid_over_the_saved_job():
    words = ["trainer.global_batch_size=32", "trainer.model.options.dense=32", "data.augment.flip=true"]
    job = amended(SAVED, compose(words))
    assert (job.trainer.global_batch_size, job.trainer.steps, job.data.image_size) == (32, 100, 8)
    assert job.trainer.model.options == SAVED.trainer.model.options | {"dense": 32}
    assert job.data.augment.flip
    assert amended(SAVED, compose(["data=mnist"])).data == compose(["data=mnist"]).job.data


def test_a_run_without_a_checkpoint_can_be_mended(tmp_path):
    freeze(*open_run(asked(tmp_path, "data=folder", "data.path=photos"), "x"))
    run_dir, job = open_run(asked(tmp_path, "data.path=photos", "data.on_bad_file=skip"), "x")
    freeze(run_dir, job)
    run_dir, job = open_run(asked(tmp_path), "x")
    assert (job.data.name, job.data.path, job.data.on_bad_file) == ("folder", "photos", BadFile.skip)
    learnt(run_dir)
    assert open_run(asked(tmp_path, "data.path=photos"), "x")[1].data == job.data
    with pytest.raises(BadSpec, match=r"data\.on_bad_file=stop .* begun with skip"):
        open_run(asked(tmp_path, "data.on_bad_file=stop"), "x")


def test_a_new_run_is_frozen_once(tmp_path):
    run_dir, job = open_run(asked(tmp_path, "trainer.steps=9"), "x")
    freeze(run_dir, job)
    learnt(run_dir)
    freeze(run_dir, dataclasses.replace(job, cluster=SAVED.cluster))
    assert open_run(asked(tmp_path), "x")[1].trainer.steps == 9
    with pytest.raises(BadSpec, match="begun with 9"):
        freeze(run_dir, dataclasses.replace(job, trainer=SAVED.trainer))


def test_resume_false_refuses_a_run_that_exists(tmp_path):
    freeze(*open_run(asked(tmp_path), "x"))
    with pytest.raises(BadSpec, match="resume=false"):
        open_run(asked(tmp_path, "resume=false"), "x")
    assert open_run(asked(tmp_path, "resume=false"), "y")[1].run_id == "y"


@pytest.mark.parametrize("root", ["file", "file/below", "s3://bucket"])
def test_a_root_that_is_no_folder_is_refused(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(BadSpec, match=r"storage\.root="):
        open_run(compose([f"storage.root={root}"]), "x")


def test_a_verb_on_a_sweep_is_told_of_its_trials(tmp_path):
    RunDir(str(tmp_path), "s").write_json(SWEEP, {"words": [], "trials": []})
    with pytest.raises(BadSpec, match=r"run_id=s - this is a sweep, .* job=status run_id=s lists them"):
        existing_run(asked(tmp_path, "job=evaluate", "run_id=s"))
    for verb in ("train", "prepare", "find_lr"):  # which would begin a new run in its folder, and remove it with that
        with pytest.raises(BadSpec, match="run_id=s - this is a sweep"):
            open_run(asked(tmp_path, f"job={verb}", "run_id=s"), "s")


def test_a_verb_on_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadSpec, match="no such run"):
        existing_run(asked(tmp_path, "run_id=x", "job=status"))


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    with Lease(run_dir), pytest.raises(BadSpec, match=f"process {os.getpid()} on"), Lease(run_dir):
        pass
    with Lease(run_dir):
        assert run_dir.store.exists(LEASE)
    assert not run_dir.store.exists(LEASE)


def test_a_dead_drivers_lease_is_taken_over(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    host, now = os.uname().nodename, time.time()
    dead = Owner("n", host, os.getpid(), "not when this process was born", now)
    run_dir.store.put(LEASE, json.dumps(dataclasses.asdict(dead)).encode())
    with Lease(run_dir):
        assert json.loads(run_dir.store.get(LEASE))["born"] == birth(os.getpid())


@pytest.mark.parametrize(
    ("host", "born", "age_s", "expected"),
    [
        (os.uname().nodename, birth(os.getpid()), 9 * EXPIRES_S, True),  # here the process decides, not the clock
        (os.uname().nodename, "0", 0, False),
        ("elsewhere", "0", EXPIRES_S - 5, True),
        ("elsewhere", "0", EXPIRES_S + 5, False),
    ],
    ids=["process", "no-process", "lately-heard", "long-silent"],
)
def test_who_is_alive(host, born, age_s, expected):
    assert is_alive(Owner("n", host, os.getpid(), born, time.time() - age_s), time.time()) is expected


def test_a_run_says_whether_it_begins_or_goes_on(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    assert beginning(run_dir) == f"a new run x begins in {tmp_path}/x"
    freeze(run_dir, SAVED)
    assert beginning(run_dir).startswith("going on with x from the beginning, for it has no checkpoint yet")
    for step in (20, 40):
        run_dir.write_json(f"{checkpoint_name(step)}/manifest.json", {})
    run_dir.store.put(f"{checkpoint_name(60)}/weights.safetensors", b"")  # died before it was whole
    assert beginning(run_dir) == f"going on with x from step 40 in {tmp_path}/x"


def test_only_what_was_empty_is_new(tmp_path):
    """What a command began in vain may go, and nothing that was there before it."""
    run_dir = RunDir(str(tmp_path), "x")
    assert is_new(run_dir)
    with Lease(run_dir):
        assert is_new(run_dir)
        freeze(run_dir, SAVED)
        assert not is_new(run_dir)
    for name in (SWEEP, FIND_LR, "attempts/01/rank_0.log"):
        RunDir(str(tmp_path), name.replace("/", "-")).write_json(name, {})
        assert not is_new(RunDir(str(tmp_path), name.replace("/", "-")))


@pytest.mark.parametrize(
    "text", [b"\xff\xfe\x00", b"", b" \n", b"- a", b"abc", b"trainer: 3", b"a: [", b"5", b"null", b"# all gone"]
)
def test_a_damaged_job_is_refused_by_name(tmp_path, text):
    run_dir = RunDir(str(tmp_path), "x")
    run_dir.store.put(JOB, text)
    for words in (["run_id=x"], ["run_id=x", "job=status"]):
        with pytest.raises(BadSpec, match=r"job=.*/x/job\.yaml - this file is not a job: .* - restore it, or start"):
            open_run(asked(tmp_path, *words), "x")
    assert run_dir.store.get(JOB) == text


@pytest.mark.parametrize("text", [b"", b"no", b"[1, 2]", b"null", b"5", b'{"step": "x"}', b"\xff"])
def test_a_damaged_outcome_is_named(tmp_path, text):
    run_dir = RunDir(str(tmp_path), "x")
    assert outcome(run_dir) == {}
    run_dir.store.put(OUTCOME, text)
    with pytest.raises(StoreError, match=r"x/outcome\.json: not .* - restore the file or remove it"):
        outcome(run_dir)
