"""Laws 2 and 3 as far as they are arithmetic: one order, every example once."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import Remainder
from data_pipeline.batches import EvaluationOrder, TrainingOrder
from data_pipeline.order import (
    BatchShape,
    Blocks,
    Position,
    draws,
    evaluation_steps,
    examples_before,
    place_to_example,
    position_of,
    steps_per_epoch,
)

PINNED = [8, 2, 5, 11, 0, 3, 1, 7, 10, 9, 6, 4]
PINNED_BLOCKS = [9, 8, 7, 6, 11, 5, 10, 3, 0, 1, 2, 4]
PINNED_GROUPS = [[1, 2], [0], [0], [2, 1]]
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
    batches = training(103, BatchShape(10), remainder).batches(0, 2 * steps + 3)
    assert examples_before(2 * steps + 3, 103, 10, remainder) == batches.mask.sum()
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


# the block shuffle


def blocks_of(counts: list[int], group_bytes: int = 300, shuffle: bool = True) -> Blocks:
    return Blocks(counts, [10 * count for count in counts], group_bytes, shuffle)


COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@settings(max_examples=60, deadline=None)
@given(COUNTS, SEEDS, st.integers(0, 10**6), st.integers(1, 1000))
def test_a_block_shuffle_has_one_place_for_every_example(
    counts: list[int], seed: int, epoch: int, group_bytes: int
) -> None:
    order = blocks_of(counts, group_bytes).examples(seed, epoch, np.arange(sum(counts)))
    np.testing.assert_array_equal(np.sort(order), np.arange(sum(counts)))


@settings(max_examples=60, deadline=None)
@given(COUNTS, SEEDS, st.integers(0, 100), st.integers(1, 1000))
def test_a_block_shuffle_reads_group_after_group(counts: list[int], seed: int, epoch: int, group_bytes: int) -> None:
    """What the cache fetches ahead is what the places ask for, and two groups are no more than fit into it."""
    blocks, ends = blocks_of(counts, group_bytes), np.cumsum(counts)
    order, place = blocks.examples(seed, epoch, np.arange(sum(counts))), 0
    for group in itertools.islice(blocks.groups_from(seed, epoch, 0), 100):
        assert sum(10 * counts[shard] for shard in group) <= group_bytes or len(group) == 1
        size = sum(counts[shard] for shard in group)
        assert set(np.searchsorted(ends, order[place : place + size], side="right")) == {s for s in group if counts[s]}
        for later in range(place, place + size):
            assert next(blocks.groups_from(seed, epoch, later)) == group
        place += size
        if place == sum(counts):
            return
    raise AssertionError("the groups hold less than the split")


def test_the_block_shuffle_is_pinned() -> None:
    """A saved position means the same examples for ever."""
    assert blocks_of([5, 3, 4], 80).examples(0, 0, np.arange(12)).tolist() == PINNED_BLOCKS
    assert list(itertools.islice(blocks_of([5, 3, 4], 80).groups_from(0, 0, 0), 4)) == PINNED_GROUPS


def test_epochs_of_a_block_shuffle_differ_in_shards_and_within_groups() -> None:
    blocks, places = blocks_of([50] * 12, 1500), np.arange(600)
    orders = [blocks.examples(seed, epoch, places) for seed in (0, 1) for epoch in (0, 1, 2)]
    for first in range(len(orders)):
        for second in range(first):
            assert np.mean(orders[first] == orders[second]) < 0.02
    firsts = {tuple(next(blocks.groups_from(0, epoch, 0))) for epoch in range(20)}
    assert len(firsts) > 15
    # Examples of one group come mixed: neighbours are seldom neighbours in the shard.
    assert np.mean(np.abs(np.diff(orders[0])) == 1) < 0.05


def test_a_block_shuffle_that_does_not_shuffle_keeps_the_stored_order() -> None:
    blocks = blocks_of([5, 3, 4], 80, shuffle=False)
    np.testing.assert_array_equal(blocks.examples(0, 3, np.arange(12)), np.arange(12))
    assert list(itertools.islice(blocks.groups_from(0, 0, 6), 4)) == [[0, 1], [2], [0, 1], [2]]


@pytest.mark.parametrize("remainder", list(Remainder))
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_blocks_do_not_depend_on_the_number_of_replicas(replicas: int, remainder: Remainder) -> None:
    blocks = blocks_of([30, 0, 20, 40, 13])
    one, many = (
        TrainingOrder(103, 5, BatchShape(16, 1, number), range(number), remainder, True, 2, blocks).batches(0, 20)
        for number in (1, replicas)
    )
    for alone, together in ((one.examples, many.examples), (one.mask, many.mask), (one.draws, many.draws)):
        np.testing.assert_array_equal(together.reshape(alone.shape), alone)


def test_any_step_of_a_block_shuffle_can_be_the_first() -> None:
    blocks = blocks_of([30, 0, 20, 40, 13])
    order = TrainingOrder(103, 5, BatchShape(10), range(1), Remainder.pad, True, 0, blocks)
    whole = order.batches(0, 40)
    for first in (1, 10, 11, 27):
        np.testing.assert_array_equal(order.batches(first, 10).examples, whole.examples[first : first + 10])
        group = next(order.groups_from(first))
        shards = np.searchsorted(np.cumsum([30, 0, 20, 40, 13]), whole.examples[first, 0], side="right")
        assert shards in group


@pytest.mark.parametrize("kind", ["full", "blocks"])
def test_a_billion_examples_in_a_made_up_set_need_no_memory(kind: str) -> None:
    """Ten thousand shards of a hundred thousand examples, 64 MiB each, through a cache of 16 GiB."""
    counts = [100_000] * 10_000
    blocks = Blocks(counts, [64 << 20] * len(counts), 8 << 30) if kind == "blocks" else None
    order = TrainingOrder(10**9, 0, BatchShape(1024), range(1), Remainder.drop, True, 4, blocks)
    an_epoch = steps_per_epoch(10**9, 1024, Remainder.drop)
    tracemalloc.start()
    seen = [order.batches(first, 8).examples for first in (0, an_epoch // 2, an_epoch - 8, 7 * an_epoch + 12345)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    for examples in seen[:3]:
        assert len(np.unique(examples)) == examples.size
    together = np.concatenate(seen[:3], axis=None)
    assert len(np.unique(together)) == together.size
    assert together.min() >= 0 and together.max() < 10**9
