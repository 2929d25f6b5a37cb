"""Law 1: the same update on any number of replicas, workers and micro-batches, as plain Keras makes on one."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from conf.schema import Precision
from tests.trainer.arithmetic import AVERAGED, CASES, Case, by_convoy, by_keras, cases_of, new_model, weights_of
from tests.trainer.conftest import GROUPS

#: Relative to the largest weight of each array.
TOLERANCE = 1e-5


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    """What the weights should be: plain Keras; where Keras has no such thing, our step on one replica."""
    case = CASES[name]
    if case.precision is not Precision.float32:
        return by_keras(Case(case.optimizer))
    if case.batch_norm and case.accumulation > 1:
        return weights_of(by_convoy(case, tf.distribute.get_strategy(), 0, 1))
    return by_keras(case)


def compare(name: str, found: dict[str, np.ndarray]) -> None:
    expected, begun = reference(name), weights_of(new_model(CASES[name]))
    assert found.keys() == expected.keys()
    exact = CASES[name].precision is Precision.float32
    moved = 0
    for path, value in expected.items():
        travelled = np.abs(value - begun[path]).max()
        # float16 is compared with float32: it has to end close by, not at the same place.
        tolerance = TOLERANCE * np.abs(value).max() if exact else 0.2 * travelled
        difference = np.abs(found[path] - value).max()
        assert difference <= tolerance, f"{path} differs by {difference:.2g}, more than {tolerance:.2g}"
        # A training that changed nothing would equal any other.
        moved += travelled > 100 * TOLERANCE * np.abs(value).max()
    assert moved >= 0.7 * len(expected), "the reference hardly learnt anything"


@pytest.mark.parametrize("name", CASES)
def test_one_replica_equals_plain_keras(name):
    compare(name, weights_of(by_convoy(CASES[name], tf.distribute.get_strategy(), 0, 1)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[1]}-{group[0]}")
def test_replicas_equal_plain_keras(group, groups):
    for weights in groups[group]:
        for name in set(cases_of(group[1])) & set(CASES):
            compare(name, weights_of_case(weights, name))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[1]}-{group[0]}")
def test_averaged_batch_norm_statistics_are_the_same_everywhere(group, groups):
    first, *others = (weights_of_case(weights, "averaged-batch-norm") for weights in groups[group])
    statistics = [path for path in first if "moving" in path]
    begun = weights_of(new_model(AVERAGED))
    assert len(statistics) == 4 and len(others) == group[1] - 1
    for path in statistics:
        assert not np.allclose(first[path], begun[path], atol=1e-3)
        assert all(np.array_equal(first[path], other[path]) for other in others)


@pytest.mark.parametrize("group", [("mirrored", 2), ("workers", 2)], ids=lambda group: f"{group[1]}-{group[0]}")
def test_what_xla_compiles_updates_its_own_replicas_statistics(group, groups):
    """Before they are averaged each replica has its own, so a replica that moved another's would end elsewhere."""
    for weights in groups[group]:
        plain, found = (weights_of_case(weights, name) for name in ("averaged-batch-norm", "xla-averaged"))
        assert plain.keys() == found.keys()
        for path, value in plain.items():
            assert np.abs(found[path] - value).max() <= TOLERANCE * np.abs(value).max(), path


def weights_of_case(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.partition(":")[2]: value for key, value in weights.items() if key.startswith(f"{name}:")}
