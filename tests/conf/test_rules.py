"""The schema, its files and its rules."""

import dataclasses
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf import rules, schema
from conf.errors import BadSpec
from conf.files import dump_job, load_job
from conf.register import register
from conf.schema import JobSpec


def job(*words: str) -> JobSpec:
    """The job that these words ask for."""
    register()
    with initialize_config_module("conf", version_base="1.3"):
        return OmegaConf.to_object(compose("config", list(words)))


TRAINERS = ["convnet", "xception", "resnet50", "efficientnetb0", "mobilenetv2", "vit"]
CLUSTERS = ["local", "1cpu", "2cpu", "4cpu", "1gpu", "2gpu", "4gpu", "8gpu", "2x1gpu", "2x4gpu", "2x8gpu", "4x4gpu"]


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_recipe_fits_every_cluster(trainer, cluster):
    rules.check(job(f"trainer={trainer}", f"cluster={cluster}", "trainer.global_batch_size=64"))


def test_the_default_is_the_convnet_on_digits_on_this_machine():
    found = job()
    assert (found.trainer.name, found.data.name, found.cluster.name) == ("convnet", "digits", "local")
    assert (found.storage.root, found.trainer.global_batch_size) == ("runs", 64)


def test_a_job_survives_its_file():
    found = job(
        "trainer=vit", "cluster=2x4gpu", "data=folder", "data.path=x", "seed=7", "trainer.precision=mixed_bfloat16"
    )
    assert load_job(dump_job(found), "job.yaml") == found


@pytest.mark.parametrize(
    "text", ["trainer: {stps: 3}", "seed: many", "trainer: {precision: float8}", "[1, 2]", "a: [", ""]
)
def test_a_file_that_is_no_job_is_refused_by_name(text):
    """A file that says nothing too: what is left of a job is not the job of all defaults."""
    with pytest.raises(BadSpec, match=r"runs/x/job\.yaml"):
        load_job(text, "runs/x/job.yaml")


BAD = [
    ("cluster=4cpu cluster.min_workers=5", "is at most cluster.workers, which is 4", "min_workers=4"),
    ("cluster=4cpu cluster.min_workers=0", "greater than 0", "cluster.min_workers"),
    ("cluster=4cpu cluster.min_workers=3", "on cluster.min_workers=3 workers", "nearest: 63, 66"),
    ("cluster=4cpu cluster.capacity_timeout_s=0", "greater than 0", "cluster.capacity_timeout_s"),
    ("trainer.global_batch_size=250 cluster=2x4gpu trainer.accumulation_steps=2", "multiple of 16", "240, 256"),
    ("trainer.global_batch_size=3 cluster=4gpu", "multiple of 4", "nearest: 4"),
    ("trainer.global_batch_size=0", "greater than 0", ""),
    ("trainer.optimizer.name=adm", "none of this name", "did you mean adam?"),
    ("trainer.schedule.name=cosin", "none of this name", "did you mean cosine?"),
    ("trainer.optimizer.name=AdamW", "none of this name", "did you mean adamw?"),
    ("trainer.schedule.end_factor=-2", "the share of the learning rate that it falls to", "end_factor=0.01"),
    ("trainer.schedule.end_factor=nan", "in [0, 1]", ""),
    ("trainer.schedule.factor=inf", "must be a finite number", ""),
    ("data.split.train=0.9", "together they are 1", ""),
    ("data.split.train=nan", "together they are 1", ""),
    ("data=folder", "reads from a path", "data.path="),
    ("data=csv", "reads from a path", "data.path=FILE.csv"),
    ("data=npz", "reads from a path", "data.path=FILE.npz"),
    ("trainer=xception data.image_size=70", "smaller than 71 pixels", "data.image_size=71"),
    ("trainer=xception trainer.model.image_size=70", "smaller than 71 pixels", "trainer.model.image_size=71"),
    ("trainer.model.image_size=-5", "greater than 0", "trainer.model.image_size"),
    ("trainer.model.min_image_size=0", "greater than 0", "trainer.model.min_image_size"),
    ("trainer.label_smoothing=1.5", "a share in [0, 1)", ""),
    ("run_id=a/b", "a run_id is letters", ""),
    ("storage=gcs storage.root=runs", "in a bucket", "gs://"),
    ("storage.root=gs://bucket/x", "in a folder", "storage=gcs"),
    ("job=evaluate", "works on a run that exists", "run_id="),
    ("job=checkpoints run_id=x checkpoints.export=keras checkpoints.prune=true", "go with a list", "two commands"),
    ("job=checkpoints run_id=x checkpoints.export=keras checkpoints.verify=true", "go with a list", "two commands"),
    ("trainer.epochs=null", "has a length", ""),
    ("cluster.max_restarts=-1", "at least 0", ""),
    ("data.channels=2", "grey (1) or RGB (3)", ""),
    ("trainer.class_weights=heavy", "null or balanced", "{cat: 2.0, dog: 1.0}"),
    ("trainer.class_weights=balanced data.oversample=balanced", "twice favours the rare ones", "one of the two"),
    ("trainer.class_weights={cat: heavy}", "the weight of a class is a number", ""),
    ("trainer.class_weights={cat: -1}", "0 or more", ""),
    ("trainer.blow_up_factor=1", "a number above 1", "trainer.blow_up_factor=10"),
    ("data.augment.rotation=200", "degrees in [0, 180]", "data.augment.rotation=0"),
    ("data.augment.randaugment_ops=9", "a number of changes in [0, 8]", ""),
    ("data.augment.mixup=-0.1", "alpha of a Beta distribution", ""),
    ("data.augment.zoom=nan", "in [0, 0.9]", ""),
    ("data.augment.crop_min_ratio=2", "no wider than the widest", ""),
    ("data.augment.hue=0.1", "grey images", "data.channels=3"),
    (
        "data.augment.cutmix=1 trainer.global_batch_size=36 cluster=4gpu",
        "multiple of 8 (1 workers x 4 replicas x 1 micro-batches x 2, for MixUp and CutMix take pairs)",
        "32, 40",
    ),
]


@pytest.mark.parametrize(("words", "law", "cure"), BAD)
def test_a_bad_job_is_refused_with_its_law_and_cure(words, law, cure):
    with pytest.raises(BadSpec) as caught:
        rules.check(job(*re.split(r" (?=[a-z_.]+=)", words)))
    (problem,) = caught.value.problems
    assert law in problem.law and cure in problem.cure
    assert str(problem).startswith(f"{problem.field}=")


def test_all_problems_are_reported_at_once():
    with pytest.raises(BadSpec) as caught:
        rules.check(job("trainer.optimizer.name=adm", "data.split.train=0.9", "run_id=-x"))
    assert len(caught.value.problems) == 3
    assert str(caught.value).startswith("the job has 3 problems\n  ")


def test_steps_win_over_the_recipes_epochs():
    found = job("trainer.steps=5")
    rules.check(found)
    assert (found.trainer.steps, found.trainer.epochs) == (5, 20)


def test_every_key_of_the_schema_says_what_it_is():
    """Groups of keys say it where they are defined."""
    keys = re.findall(r"^    \w+: .*$", Path(schema.__file__).read_text(), re.M)
    assert len(keys) > 150
    assert [key for key in keys if "  # " not in key and not re.search(r"default_factory=\w+Spec\)$", key)] == []


def test_every_key_of_the_schema_has_a_default():
    """So that a job.yaml of an older version can be read by a newer one."""

    def look(kind: type) -> None:
        for field in dataclasses.fields(kind):
            assert field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            if dataclasses.is_dataclass(field.type):
                look(field.type)

    look(JobSpec)
