"""Phases and groups as they are asked for: what they mean, and what is refused."""

import pytest

from conf import rules
from conf.errors import BadSpec
from conf.files import dump_job, load_job
from conf.phases import described, groups_of, is_plain, optimizer_of, phase_steps, phases_of
from conf.schema import GroupSpec, JobSpec, OptimizerSpec, PhaseSpec, TrainerSpec
from tests.conf.test_rules import job

THREE = "trainer.phases=[{trainable: head, epochs: 2}, {trainable: 3, examples: 1000, learning_rate: 1e-4}, {}]"


def test_without_phases_there_is_one_which_trains_everything():
    trainer = TrainerSpec(epochs=3)
    assert phases_of(trainer) == [PhaseSpec()] and is_plain(trainer)
    assert phase_steps(trainer, 10) == [30]


@pytest.mark.parametrize("own", ["learning_rate: 0.5", "optimizer: {name: sgd}", "schedule: {name: constant}"])
def test_a_single_phase_may_have_a_rate_an_optimizer_and_a_schedule_of_its_own(own):
    assert is_plain(job("trainer.phases=[{}]").trainer)
    assert not is_plain(job(f"trainer.phases=[{{{own}}}]").trainer)


def test_phases_in_several_units_fill_the_training():
    trainer = job(THREE, "trainer.epochs=5").trainer
    assert phase_steps(trainer, 20) == [40, 16, 44]  # 1000 examples are 15.6 batches of 64
    assert not is_plain(trainer)
    assert optimizer_of(trainer, trainer.phases[1]).learning_rate == 1e-4
    assert optimizer_of(trainer, trainer.phases[2]) == trainer.optimizer


def test_phases_with_lengths_of_their_own_need_no_other():
    asked = job("trainer.phases=[{trainable: head, steps: 7}, {steps: 5}]", "trainer.epochs=null")
    rules.check(asked)
    assert phase_steps(asked.trainer, 100) == [7, 5]


def test_a_phase_may_have_everything_of_its_own_and_survives_the_file():
    words = (
        "trainer.phases=[{trainable: conv2, epochs: 1, optimizer: {name: sgd, momentum: 0.5}, schedule: {name: cosine},"
        " groups: [{part: head, optimizer: {name: adam}}]}, {}]"
    )
    asked = job(words)
    rules.check(asked)
    assert load_job(dump_job(asked), "job.yaml") == asked
    first = asked.trainer.phases[0]
    assert isinstance(first.groups[0], GroupSpec) and first.optimizer == OptimizerSpec(name="sgd", momentum=0.5)
    assert groups_of(asked.trainer, asked.trainer.phases[1]) == []
    assert described(asked.trainer, first) == "conv2 and above, 1 epoch, sgd 0.001, head by adam 0.001, cosine"


@pytest.mark.parametrize("recipe", ["xception", "resnet50", "efficientnetb0", "mobilenetv2"])
def test_loaded_weights_are_tuned_from_the_head_downwards_and_random_ones_all_at_once(recipe):
    loaded, scratch = (
        job(f"trainer={recipe}", "trainer.model.weights=imagenet").trainer,
        job(f"trainer={recipe}").trainer,
    )
    head, upper, everything = phases_of(loaded)
    assert (head.trainable, everything.trainable) == ("head", "all") and upper.trainable not in ("head", "all")
    rates = [optimizer_of(loaded, phase).learning_rate for phase in (head, upper, everything)]
    assert rates[0] > rates[1] > rates[2] > 0
    assert sum(phase_steps(loaded, 50)) == 500 and is_plain(scratch)
    refused = JobSpec(trainer=loaded)
    refused.trainer.epochs = 2
    with pytest.raises(BadSpec, match=r"trainer\.fine_tuning.*nothing is left"):
        rules.check(refused)


BAD = [
    ("trainer.phases=[]", "at least one phase", "trainer.phases=null"),
    ("trainer.phases=[{epochs: 0}, {}]", "a length above 0", "trainer.phases.0.epochs=1"),
    ("trainer.phases=[{steps: -3}, {}]", "a length above 0", "trainer.phases.0.steps=1"),
    ("trainer.phases=[{epochs: 1, steps: 5}, {}]", "one length, not 2", "leave one"),
    ("trainer.phases=[{}, {epochs: 1}]", "every phase but the last has a length", "trainer.phases.0.epochs=1"),
    ("trainer.phases=[{epochs: 20}, {}]", "nothing is left for it", "a longer training"),
    (
        "trainer.phases=[{epochs: 25}, {}]",
        "trainer.phases=25 - the phases before the last take 25 of",
        "a longer training",
    ),
    ("trainer.phases=[{epochs: 5}, {epochs: 5}]", "add up to 10 epochs, and the training is 20", "trainer.epochs=10"),
    ("trainer.phases=[{epochs: 5}, {}] trainer.epochs=null", "has a length", "trainer.epochs=10"),
    ("trainer.phases=[{epochs: 5, trainable: 0}, {}]", "a number of blocks above 0", "=head"),
    ("trainer.phases=[{epochs: 5, trainable: true}, {}]", "a number of blocks above 0", "=head"),
    ("trainer.phases=[{epochs: 5, trainable: [a]}, {}]", "a number of blocks above 0", "=head"),
    ("trainer.phases=[{epochs: 5, learning_rate: -1}, {}]", "a number above 0", "0.001"),
    ("trainer.phases=[{epochs: 5, optimizer: {name: sdg}}, {}]", "none of this name", "did you mean sgd?"),
    ("trainer.phases=[{epochs: 5, schedule: {name: cosin}}, {}]", "none of this name", "did you mean cosine?"),
    (
        "trainer.phases=[{epochs: 5, schedule: {end_factor: -3}}, {}]",
        "in [0, 1]",
        "trainer.phases.0.schedule.end_factor",
    ),
    ("trainer.groups=[{part: head, optimizer: {clip_norm: 0}}]", "greater than 0", "trainer.groups.0.optimizer"),
    ("trainer.groups=[{part: -1}]", "a number of blocks above 0", "trainer.groups.0.part=head"),
    ("trainer.optimizer.layer_decay=1.5", "no faster than the one above", "layer_decay=0.8"),
    ("trainer.ema_decay=1.0", "a share in (0, 1)", "trainer.ema_decay=0.999"),
    ("trainer.early_stopping={metric: validation_acuracy}", "no evaluation gives this", "mean validation_accuracy?"),
    ("trainer.early_stopping={patience: 0}", "at least one evaluation", "trainer.early_stopping.patience=3"),
    ("trainer.plateau={factor: 1.0}", "a factor in (0, 1)", "trainer.plateau.factor=0.1"),
    ("trainer.plateau={min_factor: -1}", "a share of the learning rate", "trainer.plateau.min_factor"),
    ("trainer.plateau={cooldown: -1}", "at least 0", "trainer.plateau.cooldown=0"),
    ("trainer.plateau={min_delta: nan}", "0 or more", "trainer.plateau.min_delta=0"),
    ("trainer.l2=-1", "0 or more", "trainer.l2"),
    ("trainer.focal_alpha=0", "a number above 0", "trainer.focal_alpha"),
    ("trainer.optimizer.layer_decay=0", "no faster than the one above", "layer_decay=0.8"),
]


@pytest.mark.parametrize(("words", "law", "cure"), BAD)
def test_what_makes_no_training_is_refused_with_its_cure(words, law, cure):
    with pytest.raises(BadSpec) as caught:
        rules.check(job(*_apart(words)))
    assert law in str(caught.value) and cure in str(caught.value)


def test_lengths_in_different_units_are_compared_where_the_epoch_is_known():
    trainer = job("trainer.phases=[{steps: 30}, {epochs: 1}]", "trainer.epochs=2").trainer
    assert phase_steps(trainer, 30) == [30, 30]
    with pytest.raises(BadSpec, match="the phases add up to 70 steps, and the training is 80 steps long"):
        phase_steps(trainer, 40)


def _apart(words: str) -> list[str]:
    first, _, rest = words.partition(" trainer.epochs")
    return [first, f"trainer.epochs{rest}"] if rest else [first]
