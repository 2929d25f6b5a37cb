"""Laws 2 and 3 as far as they are arithmetic: one order, every example once."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import Remainder
from data_pipeline.batches import EvaluationOrder, TrainingOrder
from data_pipeline.order import (
    BatchShape,
    Position,
    draws,
    evaluation_steps,
    place_to_example,
    position_of,
    steps_per_epoch,
)

PINNED = [8, 2, 5, 11, 0, 3, 1, 7, 10, 9, 6, 4]
PINNED_DRAWS = [[0.8613972663879395, 0.12108606100082397], [0.1863754391670227, 0.16390782594680786]]
SEEDS = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), SEEDS, st.integers(0, 10**6))
def test_every_example_has_one_place(num_examples: int, seed: int, epoch: int) -> None:
    order = place_to_example(seed, epoch, np.arange(num_examples), num_examples)
    np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_the_order_is_pinned() -> None:
    """A resumed run of an older Convoy must find the same order."""
    assert place_to_example(7, 3, np.arange(12), 12).tolist() == PINNED
    np.testing.assert_allclose(draws(7, 3, np.array([0, 5]), 2), PINNED_DRAWS, rtol=1e-6)


def test_a_place_does_not_depend_on_which_others_are_asked() -> None:
    whole = place_to_example(1, 2, np.arange(1000), 1000)
    some = np.array([[999, 0], [512, 3]])
    np.testing.assert_array_equal(place_to_example(1, 2, some, 1000), whole[some])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    places = np.arange(500)
    orders = [place_to_example(seed, epoch, places, 500) for seed in (0, 1) for epoch in (0, 1, 2)]
    for first in range(len(orders)):
        for second in range(first):
            assert np.mean(orders[first] == orders[second]) < 0.02


def test_the_order_is_as_even_as_chance() -> None:
    """How often an example is at a place, and which two follow one another: chi-square per degree of freedom."""
    size, epochs = 16, 4000
    at, after = np.zeros((size, size)), np.zeros((size, size))
    for epoch in range(epochs):
        order = place_to_example(0, epoch, np.arange(size), size)
        at[np.arange(size), order] += 1
        np.add.at(after, (order[:-1], order[1:]), 1)
    expected = epochs / size
    assert np.sum((at - expected) ** 2 / expected) / (size - 1) ** 2 == pytest.approx(1, abs=0.3)
    pairs = after[~np.eye(size, dtype=bool)]
    expected = epochs * (size - 1) / pairs.size
    assert np.sum((pairs - expected) ** 2 / expected) / pairs.size == pytest.approx(1, abs=0.3)


def test_a_billion_examples_need_no_memory() -> None:
    size = 10**9
    places = np.random.default_rng(0).integers(0, size, 10_000)
    tracemalloc.start()
    examples = place_to_example(0, 0, places, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(np.unique(examples)) == len(np.unique(places))
    assert examples.min() >= 0 and examples.max() < size


def test_places_outside_the_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.9"):
        place_to_example(0, 0, np.array([10]), 10)


def test_draws_are_even_and_belong_to_the_example() -> None:
    drawn = draws(3, 1, np.arange(20_000), 3)
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(0), 0.5, atol=0.01)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03
    np.testing.assert_array_equal(draws(3, 1, np.array([77]), 3)[0], drawn[77])
    assert not np.any(draws(3, 2, np.array([77]), 3) == drawn[77])


@pytest.mark.parametrize("remainder", list(Remainder))
def test_steps_and_positions(remainder: Remainder) -> None:
    steps = steps_per_epoch(103, 10, remainder)
    assert steps == (10 if remainder is Remainder.drop else 11)
    assert position_of(2 * steps + 3, 103, 10, remainder) == Position(2, 30)
    assert evaluation_steps(103, 10) == 11 and evaluation_steps(100, 10) == 10


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_micro_batches_are_slices_of_the_global_batch(replicas: int, accumulation: int, size: int) -> None:
    shape = BatchShape(replicas * accumulation * size, accumulation, replicas)
    rows = np.stack([shape.rows(replica).reshape(accumulation, size) for replica in range(replicas)])
    np.testing.assert_array_equal(rows.transpose(1, 0, 2).reshape(-1), np.arange(shape.global_batch_size))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="3 replicas"):
        BatchShape(64, 1, 3)


def training(count: int, shape: BatchShape, remainder: Remainder, replicas: range | None = None) -> TrainingOrder:
    return TrainingOrder(count, 5, shape, replicas or range(shape.num_replicas), remainder, True, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.sampled_from(Remainder))
def test_an_epoch_sees_every_example_once(
    count: int, size: int, accumulation: int, replicas: int, remainder: Remainder
) -> None:
    shape = BatchShape(size * accumulation * replicas, accumulation, replicas)
    steps = steps_per_epoch(count, shape.global_batch_size, remainder)
    if not steps:
        return
    epoch = training(count, shape, remainder).batches(3 * steps, steps)
    seen = np.sort(epoch.examples[epoch.mask == 1])
    assert len(np.unique(seen)) == len(seen)
    assert len(seen) == (count if remainder is Remainder.pad else steps * shape.global_batch_size)
    assert epoch.mask.reshape(steps, -1).sum(1).tolist() == epoch.batch_examples[::replicas].tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 4))
def test_an_evaluation_sees_every_example_once(count: int, size: int, replicas: int) -> None:
    order = EvaluationOrder(count, BatchShape(size * replicas, 1, replicas), range(replicas))
    batches = order.batches(0, 10**6)
    assert len(batches.examples) == replicas * order.num_steps
    np.testing.assert_array_equal(np.sort(batches.examples[batches.mask == 1]), np.arange(count))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_replicas(replicas: int, accumulation: int) -> None:
    """Law 2: the j-th micro-batch of all replicas together holds the same examples, with the same draws."""
    one = training(103, BatchShape(16), Remainder.pad).batches(0, 20)
    many = training(103, BatchShape(16, accumulation, replicas), Remainder.pad).batches(0, 20)
    for alone, together in ((one.examples, many.examples), (one.mask, many.mask), (one.draws, many.draws)):
        cut = together.reshape(20, replicas, accumulation, 16 // replicas // accumulation, *together.shape[2:])
        np.testing.assert_array_equal(cut.swapaxes(1, 2).reshape(alone.shape), alone)


def test_a_worker_sees_what_its_replicas_see_among_all() -> None:
    shape = BatchShape(24, 2, 4)
    everything = training(103, shape, Remainder.drop).batches(7, 5)
    own = training(103, shape, Remainder.drop, range(2, 4)).batches(7, 5)
    np.testing.assert_array_equal(own.examples.reshape(5, 2, 6), everything.examples.reshape(5, 4, 6)[:, 2:])


def test_any_step_can_be_the_first() -> None:
    order = training(103, BatchShape(10), Remainder.pad)
    whole = order.batches(0, 100)
    for first in (1, 10, 11, 57):
        for part, everything in zip(order.batches(first, 20), whole, strict=True):
            np.testing.assert_array_equal(part, everything[first : first + 20])
