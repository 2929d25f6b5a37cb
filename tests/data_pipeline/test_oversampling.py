"""Rare classes as often as the largest: every epoch, on any number of replicas, from any step."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.epoch import places_in_epoch
from conf.errors import BadSpec
from conf.schema import AugmentSpec, DataSpec, Order, Oversample, Remainder
from data_pipeline.batches import Batches, TrainingOrder
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape, draws
from data_pipeline.oversampling import Oversampling
from data_pipeline.pipeline import training_dataset

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3, 4], [40, 7, 13, 1])).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=6).filter(any), st.integers(0, 10**6))
def test_every_class_has_as_many_entries_as_the_largest(counts: list[int], epoch: int) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    oversampling = Oversampling(labels)
    assert oversampling.num_entries == places_in_epoch(sum(counts), counts, Oversample.balanced)
    examples, repetition = oversampling.examples(epoch, np.arange(oversampling.num_entries))
    found = np.bincount(labels[examples], minlength=len(counts))
    assert found.tolist() == [max(counts) * (count > 0) for count in counts]
    times = np.bincount(examples, minlength=len(labels))
    for label in np.unique(labels):
        assert np.ptp(times[labels == label]) <= 1
    # The appearances of an example are numbered, so that each has draws of its own.
    assert len(set(zip(examples.tolist(), repetition.tolist(), strict=True))) == len(examples)
    assert (repetition < times[examples]).all()


def test_over_the_epochs_each_example_of_a_class_comes_equally_often() -> None:
    oversampling, entries = Oversampling(LABELS), np.arange(4 * 40)
    times = np.zeros(len(LABELS), int)
    for epoch in range(7 * 13):
        times += np.bincount(oversampling.examples(epoch, entries)[0], minlength=len(LABELS))
    for label in np.unique(LABELS):
        assert len(set(times[label == LABELS])) == 1


def order(shape: BatchShape, replicas: range | None = None) -> TrainingOrder:
    own = replicas or range(shape.num_replicas)
    return TrainingOrder(len(LABELS), 5, shape, own, Remainder.pad, True, 2, None, Oversampling(LABELS))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_order_is_the_same_on_any_number_of_replicas_and_from_any_step(replicas: int) -> None:
    shape = BatchShape(12, 1, replicas)
    whole, steps = order(BatchShape(12)).batches(0, 42), 14
    assert order(shape).num_places == 160 and steps == -(-160 // 12)
    parts = order(shape).batches(0, 42)
    for name, value in whole._asdict().items():
        if name != "batch_examples":
            np.testing.assert_array_equal(getattr(parts, name).reshape(value.shape), value)
    for first in (1, steps, 20):
        later = order(shape).batches(first, 10)
        for value, everything in zip(later, parts, strict=True):
            np.testing.assert_array_equal(value, everything[first * replicas : (first + 10) * replicas])
    for epoch in range(3):
        own = Batches(*(value[epoch * steps : (epoch + 1) * steps] for value in whole))
        found = Counter(LABELS[own.examples[own.mask == 1]].tolist())
        assert found == {0: 40, 1: 40, 3: 40, 4: 40}


def test_a_repeated_example_has_draws_of_its_own_and_the_first_time_those_it_always_had() -> None:
    epoch = order(BatchShape(160)).batches(0, 1)
    (lonely,) = np.flatnonzero(LABELS == 4)
    drawn = epoch.draws[0][epoch.examples[0] == lonely]
    assert len(drawn) == 40 == len(np.unique(drawn[:, 0]))
    assert draws(5, 0, np.array([lonely]), 2)[0].tolist() in drawn.tolist()


@pytest.fixture
def lopsided(folder: Path, prepare_set: Callable[..., Manifest]) -> Manifest:
    """Twenty pictures of flowers against five of China, all for training."""
    for number in range(5, 20):
        (folder / "china" / f"{number:02d}.jpg").unlink()
    for name in ("validation", "test"):
        shutil.copytree(folder / "flower", folder / name / "flower")
    for name in ("china", "flower"):
        shutil.move(folder / name, folder / "train" / name)
    return prepare_set(name="folder", path=str(folder), num_shards=2)


@pytest.mark.parametrize("memory_bytes", [0, 1 << 28])
def test_an_epoch_shows_every_class_equally_often(lopsided: Manifest, memory_bytes: int) -> None:
    assert lopsided.splits["train"].class_counts == [5, 20]
    data = DataSpec(
        oversample=Oversample.balanced,
        augment=AugmentSpec(rotation=20),
        memory_bytes=memory_bytes,
        remainder=Remainder.pad,
    )
    elements = list(training_dataset(lopsided, data, 0, BatchShape(16), range(1), 24).take(6).as_numpy_iterator())
    for epoch in (elements[:3], elements[3:]):
        labels, masks, images = (
            np.concatenate([element[name] for element in epoch]) for name in ("label", "mask", "image")
        )
        assert np.bincount(labels[masks == 1]).tolist() == [20, 20] and epoch[-1]["batch_examples"] == 8
        seen = {image.tobytes() for image in images[(masks == 1) & (labels == 0)]}
        assert len(seen) == 20, "the five pictures are changed anew each time they come"


def test_a_block_shuffle_cannot_repeat_examples(lopsided: Manifest) -> None:
    data = DataSpec(oversample=Oversample.balanced, order=Order.blocks)
    with pytest.raises(BadSpec, match=r"data\.oversample=balanced - a block shuffle reads each shard once.*order=full"):
        training_dataset(lopsided, data, 0, BatchShape(8), range(1), 24)
