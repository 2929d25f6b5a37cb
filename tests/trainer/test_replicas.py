"""Law 1 in groups of replicas: each case of arithmetic.py and phased.py ends where plain Keras ends on one.

One file, because each group trains in processes of its own, once for all that is compared.
"""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import gang, masks, rising, test_phases, test_step
from tests.trainer.arithmetic import AVERAGED, CASES, cases_of, new_model, weights_of
from tests.trainer.phased import PHASED

GROUPS = (("mirrored", 2), ("mirrored", 4), ("workers", 2), ("workers", 4))
OF_TWO = GROUPS[0], GROUPS[2]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Each group's weights after every case of replicas.py: a dictionary for each replica. All groups run at once."""
    running = {group: start(group, tmp_path_factory.mktemp("-".join(map(str, group)))) for group in GROUPS}
    return {group: finish(group, started) for group, started in running.items()}


def start(group: tuple[str, int], folder: Path, *cases: str) -> gang.Gang:
    kind, number = group
    words = ("tests.trainer.replicas", str(folder), kind, str(number), *cases)
    return gang.start(folder, number if kind == "workers" else 1, *words)


def finish(group: tuple[str, int], started: gang.Gang) -> list[dict[str, np.ndarray]]:
    gang.finish(started, timeout_s=560)
    return [dict(np.load(started[1] / f"{replica}.npz")) for replica in range(group[1])]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[1]}-{group[0]}")
def test_replicas_equal_plain_keras(group, groups):
    for weights in groups[group]:
        for name in set(cases_of(group[1])) & set(CASES):
            test_step.compare(name, weights_of_case(weights, name))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[1]}-{group[0]}")
def test_averaged_batch_norm_statistics_are_the_same_everywhere(group, groups):
    first, *others = (weights_of_case(weights, "averaged-batch-norm") for weights in groups[group])
    statistics = [path for path in first if "moving" in path]
    begun = weights_of(new_model(AVERAGED))
    assert len(statistics) == 4 and len(others) == group[1] - 1
    for path in statistics:
        assert not np.allclose(first[path], begun[path], atol=1e-3)
        assert all(np.array_equal(first[path], other[path]) for other in others)


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_averages_of_batch_norm_statistics_are_the_same_everywhere(group, groups):
    first, second = (weights_of_case(weights, "averaged-statistics") for weights in groups[group])
    plain, other = (weights_of_case(weights, "averaged-batch-norm") for weights in groups[group])
    statistics = [path for path in first if "moving" in path]
    assert len(statistics) == 4 and plain.keys() == first.keys() == second.keys() == other.keys()
    for path in statistics:
        assert not np.allclose(first[path], plain[path], atol=1e-4), "they are no averages"
        assert np.array_equal(first[path], second[path])


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_what_xla_compiles_updates_its_own_replicas_statistics(group, groups):
    """Before they are averaged each replica has its own, so a replica that moved another's would end elsewhere."""
    for weights in groups[group]:
        plain, found = (weights_of_case(weights, name) for name in ("averaged-batch-norm", "xla-averaged"))
        assert plain.keys() == found.keys()
        for path, value in plain.items():
            assert np.abs(found[path] - value).max() <= test_step.TOLERANCE * np.abs(value).max(), path


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_phases_equal_plain_keras_layer_by_layer(group, groups):
    for weights in groups[group]:
        for name in PHASED:
            test_phases.compare(name, weights_of_case(weights, name))


@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_a_range_test_of_replicas_tells_plain_keras_losses(group, groups):
    first, second = (weights_of_case(weights, "range-test") for weights in groups[group])
    rising.compare(first)
    told = {"rates": first["rates"], "losses": first["losses"]} if group[0] == "mirrored" else {}
    rising.compare(second | told)


def test_a_range_test_of_one_replica_tells_plain_keras_losses():
    model, told = rising.by_convoy(tf.distribute.get_strategy(), 0, 1)
    rising.compare(weights_of(model) | told)


@pytest.mark.parametrize("kind", masks.KINDS)
@pytest.mark.parametrize("group", OF_TWO, ids=lambda group: f"{group[1]}-{group[0]}")
def test_replicas_leave_out_what_each_draws_for_itself(group, groups, kind):
    found = [weights_of_case(weights, kind) for weights in groups[group]]
    check_masks(kind, [found[0][step] for step in "01"])
    if group[0] == "workers":
        assert all(np.array_equal(found[0][step], found[1][step]) for step in "01")


@pytest.mark.parametrize("kind", masks.KINDS)
def test_one_replica_leaves_out_as_much(kind):
    check_masks(kind, masks.kernels(kind, tf.distribute.get_strategy(), 0, 1))


def check_masks(kind: str, kernels: list[np.ndarray]) -> None:
    """Each pixel of each example is left out or as large as makes up for it; in each part and step others are."""
    moved = [kernels[0], kernels[1] - kernels[0]]
    whole = -masks.LEARNING_RATE * masks.expected()[:, None] / (1 - masks.RATE)
    kept = []
    for kernel in moved:
        stayed = np.any(kernel != 0, axis=-1)
        np.testing.assert_allclose(kernel, whole * stayed[..., None], rtol=2e-3, atol=1e-9)
        kept.append(stayed)
    if kind == "stochastic_depth":
        assert all(np.array_equal(stayed, stayed[:, :1].repeat(masks.PIXELS, 1)) for stayed in kept), "of a whole image"
        kept = [stayed[:, :1] for stayed in kept]
    draws = sum(stayed.size for stayed in kept)
    fraction = 1 - sum(stayed.sum() for stayed in kept) / draws
    assert abs(fraction - masks.RATE) < 4 * np.sqrt(masks.RATE * (1 - masks.RATE) / draws)
    # Two micro-batches of two replicas or one: a quarter of the batch is drawn for at once, or half of it.
    parts = [part.tobytes() for stayed in kept for part in np.split(stayed, 4)]
    assert len(set(parts)) == len(parts), "a mask was drawn twice"


@pytest.mark.parametrize("group", GROUPS[2:], ids=lambda group: f"{group[1]}-{group[0]}")
def test_all_workers_hear_of_one_that_wishes_something_or_stands_elsewhere(group, groups):
    for found in groups[group]:
        assert found["agreement:anywhere"].tolist() == [False, True], "the last one alone wished it"
        assert found["agreement:everywhere"].tolist() == [False, True]


def weights_of_case(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.partition(":")[2]: value for key, value in weights.items() if key.startswith(f"{name}:")}
