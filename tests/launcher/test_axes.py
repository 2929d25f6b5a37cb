"""What a sweep varies, and the trials it makes of it."""

import json
import math

import pytest

from conf.errors import BadSpec
from conf.schema import ClusterSpec, DataSpec, JobSpec, SweepKind, SweepSpec
from launcher.axes import Axis, split, trials
from launcher.compose import compose
from launcher.placement import Host, place, room
from launcher.sweep import unjudged
from launcher.sweep_table import as_csv, lines, ranked
from launcher.trial import Result, Trial
from launcher.verbs.sweep import planned
from storage.store import open_store

RATE = "trainer.optimizer.learning_rate"


def test_hydras_words_for_several_values_are_axes_and_all_others_stay():
    words = [
        "job=sweep",
        f"{RATE}=0.1,0.01",
        "seed=range(0,3)",
        "trainer=convnet,vit",
        "trainer.label_smoothing=interval(0,0.5)",
        "trainer.optimizer.weight_decay=tag(log,interval(1e-5,1e-2))",
        "trainer.model.hidden=[64],[64,32]",
        "trainer.class_weights={cat: 2.0, dog: 1.0}",
        "data.path=/a b/c",
    ]
    fixed, axes = split(words)
    assert fixed == ["job=sweep", "trainer.class_weights={cat: 2.0, dog: 1.0}", "data.path=/a b/c"]
    assert axes == [
        Axis(RATE, ("0.1", "0.01")),
        Axis("seed", ("0", "1", "2")),
        Axis("trainer", ("convnet", "vit")),
        Axis("trainer.label_smoothing", (), 0.0, 0.5),
        Axis("trainer.optimizer.weight_decay", (), 1e-5, 1e-2, True),
        Axis("trainer.model.hidden", ("[64]", "[64,32]")),
    ]


def test_a_grid_has_every_combination_once():
    found = trials([Axis("a", ("1", "2")), Axis("b", ("x", "y", "z"))], SweepSpec())
    assert len(found) == 6 and {tuple(values.items()) for values in found} == {
        (("a", a), ("b", b)) for a in "12" for b in "xyz"
    }


def test_random_trials_depend_on_the_seed_alone_and_a_longer_sweep_begins_with_a_shorter_one():
    axes = [Axis("rate", (), 1e-4, 1e-1, is_log=True), Axis("size", (), 1.0, 4.0, is_whole=True), Axis("k", ("p", "q"))]
    drawn = trials(axes, SweepSpec(SweepKind.random, 200))
    assert drawn == trials(axes, SweepSpec(SweepKind.random, 200)) != trials(axes, SweepSpec(SweepKind.random, 200, 1))
    assert trials(axes, SweepSpec(SweepKind.random, 20)) == drawn[:20]
    rates = [math.log10(float(values["rate"])) for values in drawn]
    assert min(rates) >= -4 and max(rates) <= -1
    for low in (-4, -3, -2):  # by the logarithm: a third in each decade
        assert 40 < sum(low <= rate < low + 1 for rate in rates) < 95
    assert {values["size"] for values in drawn} == set("1234") and {values["k"] for values in drawn} == {"p", "q"}


def test_a_random_sweep_of_few_combinations_draws_each_once():
    found = trials([Axis("a", ("1", "2")), Axis("b", ("1", "2"))], SweepSpec(SweepKind.random, 9))
    assert sorted((values["a"], values["b"]) for values in found) == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


@pytest.mark.parametrize(
    ("axes", "asked", "law"),
    [
        ([], SweepSpec(), "varies at least one key"),
        ([Axis("a", (), 0, 1)], SweepSpec(), "a grid needs values"),
        ([Axis("a", ("1", "2"))], SweepSpec(SweepKind.random), "has a length"),
    ],
)
def test_what_cannot_be_tried_is_refused(axes, asked, law):
    with pytest.raises(BadSpec, match=law):
        trials(axes, asked)


def test_a_combination_that_the_rules_refuse_is_named_and_the_others_are_tried():
    words = [
        "job=sweep",
        "trainer.steps=9",
        "trainer.accumulation_steps=1,2",
        "cluster.accelerator=cpu",
        f"{RATE}=-1,1",
    ]
    found = planned(words, JobSpec(run_id="s"))
    assert [trial.run_id for trial in found] == ["s-001", "s-002", "s-003", "s-004"]
    assert ["greater than 0" in (trial.refused or "") for trial in found] == [True, False, True, False]
    assert found[3].job.trainer.accumulation_steps == 2 and found[3].job.trainer.optimizer.learning_rate == 1
    assert found[3].job.trainer.tensorboard.hparams == ["trainer.accumulation_steps", RATE]
    model = planned(["job=sweep", "trainer.model.name=convnet,vgg99"], JobSpec(run_id="s"))
    assert model[0].refused is None and "did you mean vgg19?" in model[1].refused
    with pytest.raises(BadSpec, match="greater than 0"):
        planned([*words[:3], f"{RATE}=-1,0"], JobSpec(run_id="s"))


@pytest.mark.parametrize(
    "word", ["run_id=a,b", "job=train,find_lr", "sweep.trials=1,2", "storage.root=a,b", "storage=local,gcs"]
)
def test_what_all_trials_share_is_not_varied(word):
    with pytest.raises(BadSpec, match=f"{word.partition('=')[0]}=.* - is the sweep's own, and the same for all"):
        compose(["job=sweep", word, f"{RATE}=1,2"])


def test_as_many_trials_run_at_once_as_the_hosts_hold():
    def fit(cluster: ClusterSpec, *hosts: Host) -> int:
        return room(cluster, place(cluster, hosts, own_ray=True), hosts)

    assert fit(ClusterSpec(cpus_per_worker=1), Host("a", 4, 0)) == 4
    assert fit(ClusterSpec(workers=2, cpus_per_worker=1), Host("a", 3, 0), Host("b", 4, 0)) == 3
    assert fit(ClusterSpec(workers=8), Host("a", 2, 0)) == 1  # on a Ray of our own it runs all the same
    assert fit(ClusterSpec(gpus_per_worker=2), Host("a", 64, 8), Host("b", 64, 3)) == 5
    assert fit(ClusterSpec(gpus_per_worker=2, cpus_per_worker=32), Host("a", 64, 8)) == 2
    assert fit(ClusterSpec(), Host("a", 64, 8)) == 1  # all GPUs of the host


def test_a_set_that_no_trial_can_be_judged_by_is_told(tmp_path):
    def told(validation: int) -> list[str]:
        splits = {"train": {"num_examples": 9}, "validation": {"num_examples": validation}}
        open_store(str(tmp_path)).put("manifest.json", json.dumps({"splits": splits}).encode())
        job = JobSpec(data=DataSpec(out=str(tmp_path)))
        return list(unjudged([job, job], "validation_loss"))

    assert told(3) == []
    (words,) = told(0)
    assert "has no validation split" in words and "validation_loss" in words


def test_the_table_has_the_best_first_and_names_what_failed():
    def row(number: int, state: str, accuracy: float | None, reason: str | None = None) -> tuple[Trial, Result]:
        metrics = {} if accuracy is None else {"validation_accuracy": accuracy, "validation_loss": accuracy / 2}
        return Trial(number, f"s-00{number}", {"trainer.a": f"{number}"}, ()), Result(state, 9, metrics, reason)

    rows = [row(1, "succeeded", 0.5), row(2, "failed", 0.9, "it broke, here"), row(3, "succeeded", 0.8)]
    by_accuracy = ranked(rows, "validation_accuracy")
    assert [trial.number for trial, _ in by_accuracy] == [3, 1, 2]
    assert [trial.number for trial, _ in ranked(rows, "validation_loss")] == [1, 3, 2]
    shown = lines(by_accuracy, "validation_accuracy")
    assert shown[0].split() == ["run_id", "validation_accuracy", "validation_loss", "a"]
    assert shown[1].split() == ["s-003", "0.8000", "0.4000", "3"] and "failed: it broke" in shown[3]
    assert as_csv(by_accuracy).splitlines()[3] == '2,s-002,failed,0.9,0.45,,,9,2,"it broke, here"'
