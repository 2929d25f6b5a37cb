"""Which example comes when: a pure function of (seed, epoch, place), whatever the number of workers.

A place is a number in an epoch's order. The order is a keyed permutation of the examples, computed place by place and
never stored, so it costs the same for a thousand examples as for a billion. It needs nothing but NumPy.

The permutation is a Feistel network over the smallest rectangle a * b that holds the examples (a and b near the square
root): a place is (row, column), and each round moves one of the two by a hash of the other. The few cells of the
rectangle which are no example are walked over: the network is applied again until it lands on one.

A split that is far away and does not fit into the cache has a block shuffle instead, so that each shard is fetched once
an epoch (`data.order=auto` decides it by manifest and job, never by what a host has at the time): the shards are
permuted anew every epoch, cut in that order into groups of which two fit into the cache, and the examples of each group
are permuted among themselves. It is as exact as the full order: one place for each example, computed without a list of
examples; only the shards are listed. What it gives up: two examples of one shard are never further apart than a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conf.schema import Remainder

Places = NDArray[np.int64]

_ROUNDS = 8
# So that the order, the draws, the order of shards and the orders within groups share no key.
_ORDER, _DRAWS, _SHARDS, _GROUP = 0x0DE2, 0xD2A3, 0x5AD5, 0x9209
_MASK = (1 << 64) - 1


def _keys(seed: int, epoch: int, purpose: int, count: int, *which: int) -> NDArray[np.uint64]:
    """`count` 64-bit keys which belong to this seed, epoch and purpose (and to `which` of its kind) alone."""
    words = [seed & _MASK, epoch, purpose, *which]
    return np.random.SeedSequence(words).generate_state(count, np.uint64).astype(np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: every bit of the input moves every bit of the output."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _feistel(cells: NDArray[np.uint64], keys: NDArray[np.uint64], height: int, width: int) -> NDArray[np.uint64]:
    """Where each cell of the height * width rectangle goes: a bijection of the rectangle."""
    rows, columns = np.divmod(cells, np.uint64(width))
    for number, key in enumerate(keys):
        if number % 2 == 0:
            rows = (rows + (_mix(columns + key) >> np.uint64(1))) % np.uint64(height)
        else:
            columns = (columns + (_mix(rows + key) >> np.uint64(1))) % np.uint64(width)
    return rows * np.uint64(width) + columns


def place_to_example(seed: int, epoch: int, places: Places, num_examples: int) -> Places:
    """The examples at `places` of this epoch's order; every example is at one place in 0..num_examples-1."""
    places = np.asarray(places, np.int64)
    if places.size and (places.min() < 0 or places.max() >= num_examples):
        raise ValueError(f"places must be in 0..{num_examples - 1}")
    return _permuted(places, num_examples, _keys(seed, epoch, _ORDER, _ROUNDS))


def _permuted(places: Places, num_examples: int, keys: NDArray[np.uint64]) -> Places:
    """Where the permutation of 0..num_examples-1 with these keys takes `places`."""
    width = isqrt(max(num_examples - 1, 0)) + 1
    height = -(-num_examples // width)
    examples = _feistel(places.astype(np.uint64), keys, height, width)
    outside = np.flatnonzero(examples >= np.uint64(num_examples))
    while outside.size:
        examples.flat[outside] = _feistel(examples.flat[outside], keys, height, width)
        outside = outside[examples.flat[outside] >= np.uint64(num_examples)]
    return examples.astype(np.int64)


class _Layout(NamedTuple):
    """One epoch of a block shuffle: shards, and [shards + 1] places and [groups + 1] positions at which they begin."""

    shards: Places
    places: Places
    groups: Places


class Blocks:
    """The block shuffle of a split: its shards in groups of at most `group_bytes`, or of one shard that is larger.

    `num_examples` and `num_bytes` are those of each shard. Without `shuffle` all stays in stored order.
    """

    def __init__(self, num_examples: list[int], num_bytes: list[int], group_bytes: int, shuffle: bool = True):
        self.group_bytes, self.shuffle = group_bytes, shuffle
        self._counts, self._bytes = np.asarray(num_examples, np.int64), np.asarray(num_bytes, np.int64)
        self._starts = np.cumsum(self._counts) - self._counts

    def examples(self, seed: int, epoch: int, places: Places) -> Places:
        """The examples at `places` of this epoch's order."""
        layout = _layout(self, seed, epoch)
        if places.size and (places.min() < 0 or places.max() >= layout.places[-1]):
            raise ValueError(f"places must be in 0..{layout.places[-1] - 1}")
        places = self._within_groups(layout, seed, epoch, places) if self.shuffle else places
        position = np.searchsorted(layout.places, places, side="right") - 1
        return self._starts[layout.shards[position]] + places - layout.places[position]

    def _within_groups(self, layout: _Layout, seed: int, epoch: int, places: Places) -> Places:
        first = layout.places[layout.groups]
        numbers = np.searchsorted(first, places, side="right") - 1
        moved = np.empty_like(places)
        for number in np.unique(numbers):
            own, start = numbers == number, first[number]
            keys = _keys(seed, epoch, _GROUP, _ROUNDS, int(number))
            moved[own] = start + _permuted(places[own] - start, int(first[number + 1] - start), keys)
        return moved

    def groups_from(self, seed: int, epoch: int, place: int) -> Iterator[list[int]]:
        """The shards of the group that this place is in, then of those that follow, epoch after epoch without end."""
        while True:
            layout = _layout(self, seed, epoch)
            first = max(int(np.searchsorted(layout.places[layout.groups], place, side="right")) - 1, 0)
            for start, end in zip(layout.groups[first:-1], layout.groups[first + 1 :]):
                yield layout.shards[start:end].tolist()
            epoch, place = epoch + 1, 0

    def lay_out(self, seed: int, epoch: int) -> _Layout:
        """The order of the shards in this epoch, and where groups begin."""
        shards = np.arange(len(self._counts))
        if self.shuffle:
            shards = _permuted(shards, len(shards), _keys(seed, epoch, _SHARDS, _ROUNDS))
        places = np.concatenate([[0], np.cumsum(self._counts[shards])])
        ends, groups = np.cumsum(self._bytes[shards]), [0]
        while groups[-1] < len(shards):
            before = ends[groups[-1] - 1] if groups[-1] else 0
            fitting = int(np.searchsorted(ends, before + self.group_bytes, side="right"))
            groups.append(max(fitting, groups[-1] + 1))
        return _Layout(shards, places, np.asarray(groups))


@lru_cache(maxsize=8)
def _layout(blocks: Blocks, seed: int, epoch: int) -> _Layout:
    """Kept for the epochs at hand: it takes longer than the places of a batch."""
    return blocks.lay_out(seed, epoch)


def draws(seed: int, epoch: int, examples: Places, count: int) -> NDArray[np.float32]:
    """`count` numbers in [0, 1) for each example, which depend on (seed, epoch, example) alone. Shape [..., count]."""
    key, *columns = _keys(seed, epoch, _DRAWS, count + 1)
    own = _mix(np.asarray(examples).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key)
    bits = _mix(own[..., None] + np.asarray(columns, np.uint64))
    return ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).astype(np.float32)


def steps_per_epoch(num_examples: int, global_batch_size: int, remainder: Remainder) -> int:
    """Optimizer steps in one epoch."""
    if remainder is Remainder.drop:
        return num_examples // global_batch_size
    return -(-num_examples // global_batch_size)


def evaluation_steps(num_examples: int, global_batch_size: int) -> int:
    """Batches of an evaluation; the last is filled up."""
    return -(-num_examples // global_batch_size)


@dataclass(frozen=True)
class Position:
    """Where in the data a run stands: the epoch, and the place in its order that comes next."""

    epoch: int
    place: int


def position_of(step: int, num_examples: int, global_batch_size: int, remainder: Remainder) -> Position:
    """The position before `step` (the first step is 0)."""
    epoch, step_of_epoch = divmod(step, steps_per_epoch(num_examples, global_batch_size, remainder))
    return Position(epoch, step_of_epoch * global_batch_size)


def examples_before(step: int, num_examples: int, global_batch_size: int, remainder: Remainder) -> int:
    """How many real examples the batches before `step` hold, over all epochs; none of them corrupt."""
    position = position_of(step, num_examples, global_batch_size, remainder)
    an_epoch = steps_per_epoch(num_examples, global_batch_size, remainder) * global_batch_size
    return position.epoch * min(an_epoch, num_examples) + position.place


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is cut.

    Micro-batch j of all replicas together is the j-th slice of the global batch, whatever the number of replicas.
    """

    global_batch_size: int
    accumulation_steps: int = 1
    num_replicas: int = 1

    def __post_init__(self) -> None:
        if self.global_batch_size % (self.accumulation_steps * self.num_replicas):
            raise ValueError(
                f"a global batch of {self.global_batch_size} does not divide into {self.num_replicas} replicas"
                f" of {self.accumulation_steps} micro-batches"
            )

    @property
    def replica_batch_size(self) -> int:
        """Examples a replica sees in one step, over all its micro-batches."""
        return self.global_batch_size // self.num_replicas

    @property
    def micro_batch_size(self) -> int:
        """Examples of one micro-batch of one replica."""
        return self.replica_batch_size // self.accumulation_steps

    def rows(self, replica: int) -> Places:
        """Places within the global batch that belong to `replica`, its first micro-batch first."""
        slices = np.arange(self.accumulation_steps) * (self.global_batch_size // self.accumulation_steps)
        rows = replica * self.micro_batch_size + np.arange(self.micro_batch_size)
        return (slices[:, None] + rows[None, :]).reshape(-1).astype(np.int64)
