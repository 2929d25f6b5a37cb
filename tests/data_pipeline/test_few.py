"""`data.examples_per_class`: some of each class, by seed."""

from collections import Counter

import pytest

from conf.data_url import data_digest
from conf.schema import DataSpec, SplitSpec
from data_pipeline.sources import ALL, Example, Source
from data_pipeline.splits import split_examples


def source(*splits: str) -> Source:
    """150 examples of class 0 and 7 of class 1 in each split."""
    labels = [0] * 150 + [1] * 7
    examples = {
        split: [Example(b"", label, f"{split}/{number}") for number, label in enumerate(labels)] for split in splits
    }
    return Source(["often", "seldom"], examples)


@pytest.mark.parametrize("splits", [(ALL,), ("train", "test"), ("train", "validation", "test")])
def test_each_split_of_a_source_gives_so_many_of_a_class(splits):
    taken = split_examples(source(*splits), SplitSpec(), 3, 20)
    counts = Counter((example.key.partition("/")[0], example.label) for part in taken.values() for example in part)
    assert counts == {(split, label): count for split in splits for label, count in ((0, 20), (1, 7))}
    every = [example.key for part in taken.values() for example in part]
    assert len(set(every)) == len(every)
    assert set(taken) == {"train", "validation", "test"}


def drawn(seed: int, most: int) -> set[str]:
    splits = split_examples(source("train", "test"), SplitSpec(1, 0, 0), seed, most)
    assert set(splits) == {"train", "test"}
    return {example.key for part in splits.values() for example in part}


def test_they_are_drawn_by_seed_and_a_smaller_set_is_part_of_a_larger():
    assert drawn(3, 20) == drawn(3, 20) != drawn(4, 20)
    assert drawn(3, 10) < drawn(3, 20)
    assert drawn(3, 20) != {f"{split}/{number}" for split in ("train", "test") for number in range(20)}


def test_without_it_a_set_is_where_it_was_before_there_was_a_choice():
    assert data_digest(DataSpec(), 0) == "f953fe41e70c"
    assert data_digest(DataSpec(examples_per_class=20), 0) != data_digest(DataSpec(), 0)
