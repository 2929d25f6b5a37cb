"""Which examples the replicas get in which step, for many steps at once. Pure NumPy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conf.schema import Remainder
from data_pipeline.order import (
    BatchShape,
    Blocks,
    Places,
    draws,
    evaluation_steps,
    place_to_example,
    position_of,
    steps_per_epoch,
)
from data_pipeline.oversampling import Oversampling

Floats = NDArray[np.float32]


class Batches(NamedTuple):
    """One row for each (step, replica), in that order; n is the batch of a replica."""

    examples: Places  # [rows, n]
    mask: Floats  # [rows, n]: 0 for those that only fill up the batch
    draws: Floats  # [rows, n, num_draws]
    batch_examples: Floats  # [rows]: real examples in the step's global batch, over all replicas


@dataclass(frozen=True)
class TrainingOrder:
    """Epoch after epoch without end. A padded batch is filled with the first examples of its epoch.

    With `blocks` it is that block shuffle, else, with `shuffle`, a full permutation. With `oversampling`, which goes
    with a full permutation alone, it is one of its entries.
    """

    num_examples: int
    seed: int
    shape: BatchShape
    replicas: range
    remainder: Remainder
    shuffle: bool
    num_draws: int
    blocks: Blocks | None = None
    oversampling: Oversampling | None = None

    @property
    def num_places(self) -> int:
        """How many places an epoch has."""
        return self.oversampling.num_entries if self.oversampling else self.num_examples

    @property
    def num_steps(self) -> None:
        """Training never ends by itself."""
        return None

    def batches(self, first_step: int, steps: int) -> Batches:
        """Those of `steps` steps from `first_step` on."""
        length = steps_per_epoch(self.num_places, self.shape.global_batch_size, self.remainder)
        epochs, step_of_epoch = np.divmod(np.arange(first_step, first_step + steps), length)
        places, mask, real = _places(step_of_epoch, self.num_places, self.shape, self.replicas)
        drawn = np.zeros((*places.shape, self.num_draws), np.float32)
        for epoch in np.unique(epochs):
            own = epochs == epoch
            places[own], appearances = self._examples(int(epoch), places[own])
            if self.num_draws:
                drawn[own] = draws(self.seed, int(epoch), appearances, self.num_draws)
        return _rows(places, mask, drawn, real)

    def _examples(self, epoch: int, places: Places) -> tuple[Places, Places]:
        """The examples at `places`, and what their draws belong to: the example, or one of its further appearances."""
        if self.blocks:
            places = self.blocks.examples(self.seed, epoch, places)
        elif self.shuffle:
            places = place_to_example(self.seed, epoch, places, self.num_places)
        if self.oversampling is None:
            return places, places
        examples, repetition = self.oversampling.examples(epoch, places)
        return examples, examples + repetition * self.num_examples

    def groups_from(self, step: int) -> Iterator[list[int]]:
        """The shards that a block shuffle reads together, group after group from `step` on."""
        if self.blocks is None:
            return iter(())
        position = position_of(step, self.num_examples, self.shape.global_batch_size, self.remainder)
        return self.blocks.groups_from(self.seed, position.epoch, position.place)


@dataclass(frozen=True)
class EvaluationOrder:
    """Every example once, as it is stored. The last batch is filled with the first examples."""

    num_examples: int
    shape: BatchShape
    replicas: range
    num_draws: int = 0

    @property
    def num_steps(self) -> int:
        """Batches until every example was seen."""
        return evaluation_steps(self.num_examples, self.shape.global_batch_size)

    def batches(self, first_step: int, steps: int) -> Batches:
        """Those of `steps` steps from `first_step` on, as far as there are any."""
        last = min(first_step + steps, self.num_steps)
        places, mask, real = _places(np.arange(first_step, last), self.num_examples, self.shape, self.replicas)
        return _rows(places, mask, np.zeros((*places.shape, 0), np.float32), real)


@dataclass(frozen=True)
class ChosenOrder:
    """The same examples in every step; what is drawn in step e is what training draws for them in epoch e."""

    examples: Places  # as the reader numbers them
    numbers: Places  # as the whole split numbers them
    seed: int
    num_draws: int
    num_steps: int

    @property
    def shape(self) -> BatchShape:
        """All of them in one batch of one replica."""
        return BatchShape(len(self.examples))

    @property
    def replicas(self) -> range:
        """The only one."""
        return range(1)

    def batches(self, first_step: int, steps: int) -> Batches:
        """Those of `steps` steps from `first_step` on, as far as there are any."""
        epochs = range(first_step, min(first_step + steps, self.num_steps))
        size = len(self.examples)
        drawn = np.zeros((len(epochs), size, self.num_draws), np.float32)
        if self.num_draws:
            drawn = np.stack([draws(self.seed, epoch, self.numbers, self.num_draws) for epoch in epochs])
        examples = np.tile(self.examples, (len(epochs), 1))
        ones = np.ones((len(epochs), size), np.float32)
        return Batches(examples, ones, drawn, np.full(len(epochs), size, np.float32))


BatchOrder = TrainingOrder | EvaluationOrder | ChosenOrder


def _places(steps: Places, num_examples: int, shape: BatchShape, replicas: range) -> tuple[Places, Floats, Floats]:
    """Places [steps, replicas, n] with their mask, and the real examples of each step's global batch."""
    first = steps * shape.global_batch_size
    rows = np.stack([shape.rows(replica) for replica in replicas])
    places = first[:, None, None] + rows
    real = np.minimum(shape.global_batch_size, num_examples - first).astype(np.float32)
    return places % num_examples, (places < num_examples).astype(np.float32), real


def _rows(places: Places, mask: Floats, drawn: Floats, real: Floats) -> Batches:
    steps, replicas, size = places.shape
    return Batches(
        places.reshape(-1, size),
        mask.reshape(-1, size),
        drawn.reshape(steps * replicas, size, drawn.shape[-1]),
        np.repeat(real, replicas),
    )
