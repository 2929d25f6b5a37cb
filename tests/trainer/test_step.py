"""Law 1: the same update on any number of replicas, workers and micro-batches, as plain Keras makes on one."""

import functools

import numpy as np
import pytest

from conf.schema import BatchNormSync, Precision
from tests.trainer.arithmetic import CASES, Case, by_convoy, by_keras, copies_of, new_model, weights_of
from trainer.batch_norm import batch_norms

#: Relative to the largest weight of each array.
TOLERANCE = 1e-5


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    """What the weights should be: plain Keras; where Keras has no such thing, our step on one replica."""
    case = CASES[name]
    if case.precision is not Precision.float32:
        return by_keras(Case(case.optimizer))
    if case.batch_norm and case.accumulation > 1:
        return weights_of(by_convoy(case, one_replica(), 0, 1))
    return by_keras(case)


def one_replica():
    import tensorflow as tf

    return tf.distribute.get_strategy()


def compare(name: str, found: dict[str, np.ndarray]) -> None:
    exact = CASES[name].precision is Precision.float32
    tolerance = TOLERANCE if exact else 0.03
    expected, begun = reference(name), weights_of(new_model(CASES[name]))
    assert found.keys() == expected.keys()
    moved = 0
    for path, value in expected.items():
        scale = np.abs(value).max()
        difference = np.abs(found[path] - value).max() / scale
        assert difference < tolerance, f"{path} differs by {difference:.2g}"
        # A training that changed nothing would equal any other.
        moved += np.abs(begun[path] - value).max() > (100 if exact else 2) * tolerance * scale
    assert moved >= 0.7 * len(expected), "the reference hardly learnt anything"


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_mirrored_replicas_equal_plain_keras(name, replicas, mirrored):
    compare(name, weights_of(by_convoy(CASES[name], mirrored[replicas], 0, replicas)))


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_workers_equal_plain_keras(name, number, workers):
    for weights in workers(number):
        compare(name, {key.partition(":")[2]: value for key, value in weights.items() if key.startswith(f"{name}:")})


@pytest.mark.parametrize("replicas", [2, 4])
def test_batch_norm_statistics_end_equal_on_every_replica(replicas, mirrored):
    model = by_convoy(Case(batch_norm=BatchNormSync.average), mirrored[replicas], 0, replicas)
    begun = weights_of(new_model(Case(batch_norm=BatchNormSync.average)))
    for layer in batch_norms(model):
        for variable in (layer.moving_mean, layer.moving_variance):
            first, *others = (copy.numpy() for copy in copies_of(variable))
            assert len(others) == replicas - 1
            assert all(np.array_equal(first, other) for other in others)
            assert not np.allclose(first, begun[variable.path], atol=1e-3)


@pytest.mark.parametrize("number", [2, 4])
def test_batch_norm_statistics_end_equal_on_every_worker(number, workers):
    first, *others = workers(number)
    statistics = [key for key in first if key.startswith("averaged-batch-norm:") and "moving" in key]
    assert len(statistics) == 4
    for other in others:
        assert all(np.array_equal(first[key], other[key]) for key in statistics)
