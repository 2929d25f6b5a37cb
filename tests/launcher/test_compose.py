"""Words on the command line: what they make of the job, and how a wrong one is refused."""

import pytest

from conf import rules
from conf.errors import BadSpec
from conf.phases import phases_of
from conf.schema import Accelerator, JobSpec, Verb
from launcher.compose import compose, known_keys, touched_parts


def test_no_words_give_the_defaults():
    asked = compose([])
    assert asked.job.job is Verb.train
    assert (asked.job.trainer.name, asked.job.data.name, asked.job.cluster.name) == ("convnet", "digits", "local")
    assert asked.touched == frozenset()


def test_groups_and_keys_reach_the_typed_job():
    words = [
        "cluster=2x4gpu",
        "cluster.accelerator=cpu",
        "trainer.steps=7",
        "run_id=5",
        "trainer.model.options.depth=3",
    ]
    job = compose(words).job
    assert isinstance(job, JobSpec)
    assert (job.cluster.workers, job.cluster.gpus_per_worker, job.cluster.accelerator) == (2, 4, Accelerator.cpu)
    assert (job.trainer.steps, job.run_id, job.trainer.model.options["depth"]) == (7, "5", 3)


def test_options_of_a_family_come_one_by_one_or_all_in_one_word():
    job = compose(["trainer.model.options={filters: [8, 8], nested: {a: 1}}", "trainer.model.options.dense=16"]).job
    assert job.trainer.model.options == {"filters": [8, 8], "nested": {"a": 1}, "dense": 16}
    phases = compose(["trainer.phases=[{trainable: head, steps: 2, optimizer: {name: sgd}}, {}]"]).job.trainer.phases
    assert phases is not None and [phase.trainable for phase in phases] == ["head", "all"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trainer=xcepton", ["trainer=xcepton", "did you mean xception?"]),
        ("experiment=nothing", ["experiment=nothing", "no such option"]),
        ("trainer.stepz=3", ["trainer.stepz=3", "did you mean trainer.steps?"]),
        ("trainer.lr=3", ["did you mean trainer.optimizer.learning_rate?"]),
        ("lr=3", ["did you mean trainer.optimizer.learning_rate?"]),
        ("trainer.learning_rate=3", ["did you mean trainer.optimizer.learning_rate?"]),
        ("trainer.batch_size=3", ["did you mean trainer.global_batch_size?"]),
        ("data.root=3", ["did you mean storage.root?"]),
        ("trainerr=xception", ["no such key", "did you mean trainer?"]),
        ("+trainer.colour=3", ["no such key"]),
        ("~trainer", ["nothing can be taken away"]),
        ("data@x=digits", ["groups stay where they are"]),
        ("trainer.steps=many", ["trainer.steps=many", "must be a whole number or null"]),
        ("trainer.steps=1,2", ["must be a whole number"]),
        ("trainer.optimizer.learning_rate=1e-3x", ["must be a number"]),
        ("resume=maybe", ["must be true or false"]),
        ("trainer.precision=mixed_floot16", ["must be one of float32", "did you mean mixed_float16?"]),
        ("job=trian", ["job=trian", "did you mean train?"]),
        ("cluster", ["a word is group=option or key=value"]),
        ("trainer.phases=[{trainabel: head, steps: 2}, {}]", ["trainer.phases.0.trainabel=head", "mean trainable?"]),
        ("trainer.phases=[{}, {optimizer: {lr: 1}}]", ["trainer.phases.1.optimizer.lr=1", "learning_rate"]),
        ("trainer.phases=[{steps: few}]", ["trainer.phases.0.steps=few", "must be a whole number or null"]),
        ("trainer.groups=[{part: head, optimiser: {}}]", ["trainer.groups.0.optimiser={}", "mean optimizer?"]),
        ("trainer.early_stopping={patiense: 3}", ["trainer.early_stopping.patiense=3", "mean patience?"]),
        ("trainer.fine_tuning.0.epochz=3", ["trainer.fine_tuning.0.epochz=3", "mean epochs?"]),
        ("trainer.phases.0.epochs=3", ["trainer.phases.0.epochs=3", "no such list", "'trainer.phases=[{...}"]),
        ("trainer.phases={trainable: head}", ["trainer.phases=", "must be a list or null", "'trainer.phases=[{...}]'"]),
        ("trainer.model.hidden=256", ["must be a list", "brackets: 'trainer.model.hidden=[256]'"]),
        ("trainer.profile=100", ["must be a list or null"]),
        ("trainer.optimizer=sgd", ["must be a group of keys", "trainer.optimizer.name=sgd"]),
        (
            "trainer.groups=[{optimizer: sgd}]",
            ["trainer.groups.0.optimizer=sgd", " trainer.groups.0.optimizer.name=sgd"],
        ),
        ("trainer.fine_tuning.7.epochs=3", ["no such place in its list", "'trainer.fine_tuning=[{...}"]),
        ("trainer.compile=XLA", ["must be one of none, xla", "did you mean xla?"]),
        ("trainer.model.options=5", ["trainer.model.options=5", "must be a group of keys"]),
        ("trainer.steps=[1]", ["trainer.steps=[1]", "must be a whole number or null"]),
    ],
)
def test_a_wrong_word_is_refused_with_the_nearest_spelling(word, said):
    with pytest.raises(BadSpec) as refused:
        compose(["seed=1", "trainer=mobilenetv2", word] if "fine_tuning" in word else ["seed=1", word])
    for words in said:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    "path",
    [
        "/tmp/räum",
        "/tmp/räum ö x",
        "/データ/画像",
        "a,b",
        "a=b",
        "~/it's (mine) #1",
        "[x]",
        "back\\slash ä",
        "ends ä\\",
        "ä\\'ä\\\\'",
        "007",
        "1e3",
        "true",
        "",
    ],
)
def test_text_is_taken_as_it_is_typed(path):
    job = compose([f"data.path={path}", f"storage.root={path}"]).job
    assert (job.data.path, job.storage.root) == (path, path)


def test_text_that_is_quoted_for_hydra_already_stays_so():
    job = compose(["data.path='a b,c'", 'storage.root="räum"', "trainer.class_weights=null"]).job
    assert (job.data.path, job.storage.root, job.trainer.class_weights) == ("a b,c", "räum", None)


def test_all_wrong_keys_are_reported_at_once():
    with pytest.raises(BadSpec) as refused:
        compose(["trainer.stepz=3", "clutser=4gpu"])
    assert len(refused.value.problems) == 2


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], set()),
        (["trainer", "trainer.steps"], {"trainer"}),
        (["data.augment.flip", "+seed"], {"data", "seed"}),
        (["run_id"], {"run_id"}),
    ],
)
def test_the_touched_parts_are_the_first_components(keys, expected):
    assert touched_parts(keys) == expected


def test_an_experiment_touches_everything():
    assert {"data", "trainer", "seed", "cluster"} <= touched_parts(["experiment"])


def test_every_key_of_the_schema_is_known():
    assert {"run_id", "data.split.train", "trainer.model.dropout", "cluster.max_restarts"} <= set(known_keys())


def test_transfer_learning_is_a_job_that_can_be_done():
    job = compose(["experiment=transfer_cifar", "data.path=x", "trainer.model.weights=imagenet"]).job
    rules.check(job)
    assert (job.trainer.model.name, job.data.name, job.data.examples_per_class) == ("mobilenetv2", "folder", 100)
    phases = [(phase.trainable, phase.epochs) for phase in phases_of(job.trainer)]
    assert phases == [("head", 6), ("block_13", 10)]
    assert compose(["experiment=transfer_cifar", "trainer.epochs=8"]).job.trainer.epochs == 8
