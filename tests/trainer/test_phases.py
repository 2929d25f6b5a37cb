"""Phases and groups: the same weights as plain Keras with `layer.trainable` set, on any number of replicas."""

import copy
import functools

import numpy as np
import pytest
import tensorflow as tf

from conf.phases import phase_steps
from tests.trainer.arithmetic import new_model, weights_of
from tests.trainer.phased import PHASED, begun, by_phases, by_plain_keras
from trainer.actions import rates_of
from trainer.model_parts import blocks_of
from trainer.models.convnet import BLOCKS
from trainer.phases import Phases

TOLERANCE = 1e-5


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    return by_plain_keras(PHASED[name])


def compare(name: str, found: dict[str, np.ndarray]) -> None:
    expected, first = reference(name), begun(PHASED[name].case.batch_norm)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        limit = TOLERANCE * np.abs(value).max()
        difference = np.abs(found[path] - value).max()
        assert difference <= limit, f"{path} differs by {difference:.2g}, more than {limit:.2g}"
        if name == "frozen-body" and not path.startswith("logits"):
            assert np.array_equal(found[path], first[path]), f"{path} is frozen, and moved"
        else:
            assert np.abs(value - first[path]).max() > 100 * limit, f"the reference did not move {path}"


@pytest.mark.parametrize("name", PHASED)
def test_one_replica_equals_plain_keras_layer_by_layer(name):
    compare(name, weights_of(by_phases(PHASED[name], tf.distribute.get_strategy(), 0, 1)))


def test_every_groups_rate_grows_with_the_batch_on_request():
    trainer, model = copy.deepcopy(PHASED["two-groups"].trainer), new_model(PHASED["two-groups"].case)
    trainer.global_batch_size, trainer.optimizer.reference_batch_size = 64, 32
    trainer.groups[0].optimizer.reference_batch_size = 16
    phases = Phases(trainer, model, blocks_of(model, BLOCKS), phase_steps(trainer, 100))
    assert rates_of(phases.optimizer) == pytest.approx({"learning_rate": 2 * 0.05, "learning_rate_group1": 4 * 0.01})


def test_the_curves_have_the_rate_of_each_group():
    trainer, model = PHASED["two-groups"].trainer, new_model(PHASED["two-groups"].case)
    phases = Phases(trainer, model, blocks_of(model, BLOCKS), phase_steps(trainer, 100))
    assert rates_of(phases.optimizer) == pytest.approx({"learning_rate": 0.05, "learning_rate_group1": 0.01})
