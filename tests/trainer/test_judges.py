"""Early stopping and plateaus decide as Keras's callbacks do on the same values; what they remember survives a file."""

import json
from collections.abc import Sequence

import keras
import numpy as np
import pytest

from conf.schema import EarlyStoppingSpec, PlateauSpec, TrainerSpec
from trainer.judges import Judges, Patience, Plateau

METRICS = {"validation_loss": "min", "validation_accuracy": "max"}


def sequences() -> list[list[float]]:
    """Values that get better for a while and then wander, some of them equal."""
    generator = np.random.default_rng(3)
    return [
        [round(float(v), 2) for v in 1 / (1 + 0.3 * np.minimum(np.arange(30), 9)) + generator.normal(0, spread, 30)]
        for spread in (0.005, 0.03, 0.1, 0.3)
    ]


def fitted(callback: keras.callbacks.Callback, values: Sequence[float], monitor: str) -> tuple[list[float], int]:
    """The learning rate after each epoch, and the epochs until it stopped, as Keras has it."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    callback.set_model(model)
    callback.on_train_begin()
    model.stop_training, rates = False, []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {monitor: value})
        rates.append(float(model.optimizer.learning_rate.numpy()))
        if model.stop_training:
            break
    return rates, len(rates)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("min_delta", [0.0, 0.05])
@pytest.mark.parametrize("patience", [1, 3, 6])
def test_it_stops_where_keras_stops_and_remembers_the_same_best(metric, min_delta, patience):
    ends = []
    for values in sequences():
        if METRICS[metric] == "max":
            values = [1 - value for value in values]
        theirs = keras.callbacks.EarlyStopping(
            "value", min_delta, patience, mode=METRICS[metric], restore_best_weights=True
        )
        _, count = fitted(theirs, values, "value")
        ours, spec = Patience(), EarlyStoppingSpec(metric, patience, min_delta)
        stops = next((n for n, value in enumerate(values, start=1) if ours.judge(spec, value, n)), len(values))
        assert (stops, ours.best_step) == (count, theirs.best_epoch + 1)
        ends.append(stops)
    assert min(ends) < 30 and len(set(ends)) > 1, "the sequences say nothing"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("patience", "cooldown", "min_factor"), [(1, 0, 0.0), (2, 3, 0.0), (2, 0, 0.2), (4, 1, 0.05)])
def test_the_rate_falls_where_keras_lowers_it(metric, patience, cooldown, min_factor):
    lowered = 0
    for values in sequences():
        if METRICS[metric] == "max":
            values = [1 - value for value in values]
        theirs = keras.callbacks.ReduceLROnPlateau(
            "value", 0.5, patience, mode=METRICS[metric], min_delta=0.01, cooldown=cooldown, min_lr=0.5 * min_factor
        )
        rates, _ = fitted(theirs, values, "value")
        ours, spec = Plateau(), PlateauSpec(metric, 0.5, patience, 0.01, cooldown, min_factor)
        found = []
        for value in values:
            ours.judge(spec, value)
            found.append(0.5 * ours.factor)
        assert found == pytest.approx(rates, rel=1e-6)
        lowered += found[-1] < 0.5
    assert lowered >= 3, "the sequences say nothing"


def judges() -> Judges:
    return Judges(EarlyStoppingSpec("validation_loss", 4), PlateauSpec("validation_accuracy", 0.5, 2))


def test_judges_go_on_from_a_file_wherever_they_were_interrupted():
    values = [(value, 1 - value) for value in sequences()[2]]
    calm = judges()
    whole = [calm.judge({"validation_loss": a, "validation_accuracy": b}, n) for n, (a, b) in enumerate(values)]
    for cut in range(len(values)):
        first, second = judges(), judges()
        for n, (a, b) in enumerate(values[:cut]):
            first.judge({"validation_loss": a, "validation_accuracy": b}, n)
        second.resume(json.loads(json.dumps(first.saved())))
        assert second == first
        rest = enumerate(values[cut:], start=cut)
        assert whole[cut:] == [second.judge({"validation_loss": a, "validation_accuracy": b}, n) for n, (a, b) in rest]
    assert any(found.lowered for found in whole) and any(found.stopped for found in whole)


def test_only_the_last_phase_ends_early_and_each_begins_with_its_own_rate():
    found = judges()
    early = [found.judge({"validation_loss": 1.0, "validation_accuracy": 0.5}, n, False) for n in range(9)]
    assert not any(each.stopped for each in early) and found.rate.factor < 1 and found.patience.best_step == 0
    found.next_phase()
    assert found.rate == Plateau() and found.patience.best_step == 0
    late = [found.judge({"validation_loss": 1.0, "validation_accuracy": 0.5}, n) for n in range(9, 13)]
    assert [bool(each.stopped) for each in late] == [False, False, False, True]
    assert "validation_loss was best at step 0 (1.0000), 4 evaluations ago" in str(late[-1].stopped)


def test_the_best_is_kept_where_it_is_to_be_restored():
    for restores in (True, False):
        spec = EarlyStoppingSpec("validation_loss", 2, restore_best=restores)
        found = Judges.of(TrainerSpec(early_stopping=spec))
        assert found.judge({"validation_loss": 1.0}, 7).is_best
        assert (found.restores_best, found.protected) == (restores, {7} if restores else set())
    assert Judges.of(TrainerSpec()).stopping is None is Judges.of(TrainerSpec()).plateau


def test_what_is_not_a_number_is_never_the_best():
    found = Patience()
    spec = EarlyStoppingSpec("validation_loss", 2)
    assert not found.judge(spec, float("nan"), 1) and found.best_step is None
    assert not found.judge(spec, 3.0, 2) and found.best_step == 2
    assert not found.judge(spec, float("nan"), 3) and found.judge(spec, float("nan"), 4)
