"""Law 1: the same update on any number of replicas, workers and micro-batches, as plain Keras makes on one."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from conf.schema import Precision
from tests.trainer.arithmetic import CASES, Case, by_convoy, by_keras, by_keras_in_parts, new_model, weights_of

#: Relative to the largest weight of each array.
TOLERANCE = 1e-5


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    """What the weights should be: plain Keras; where `fit` has no such thing, Keras in a loop of its own."""
    case = CASES[name]
    if case.precision is not Precision.float32:
        return by_keras(Case(case.optimizer))
    if case.batch_norm and case.accumulation > 1:
        return by_keras_in_parts(case)
    return by_keras(case)


def compare(name: str, found: dict[str, np.ndarray]) -> None:
    expected, begun = reference(name), weights_of(new_model(CASES[name]))
    assert found.keys() == expected.keys()
    exact = CASES[name].precision is Precision.float32
    moved, rounded = 0, False
    for path, value in expected.items():
        travelled = np.abs(value - begun[path]).max()
        # float16 is compared with float32: it has to end close by, not at the same place.
        tolerance = TOLERANCE * np.abs(value).max() if exact else 0.2 * travelled
        difference = np.abs(found[path] - value).max()
        assert difference <= tolerance, f"{path} differs by {difference:.2g}, more than {tolerance:.2g}"
        rounded |= bool(difference > TOLERANCE * np.abs(value).max())
        # A training that changed nothing would equal any other.
        moved += travelled > 100 * TOLERANCE * np.abs(value).max()
    assert moved >= 0.7 * len(expected), "the reference hardly learnt anything"
    assert rounded is not exact, "the arithmetic was float32's"


@pytest.mark.parametrize("name", CASES)
def test_one_replica_equals_plain_keras(name):
    compare(name, weights_of(by_convoy(CASES[name], tf.distribute.get_strategy(), 0, 1)))
