"""How many shards there are, and what goes into each."""

import numpy as np
import pytest

from conf.schema import DataSpec
from data_pipeline.shards import ShardPlan, plan_shards
from data_pipeline.sources import Example

MIB = 1 << 20


def planned(count: int, num_bytes: int, num_workers: int = 1, **data: object) -> list[ShardPlan]:
    """The plans of a split of so many images with so many bytes each."""
    pixels = np.broadcast_to(np.zeros(1, np.uint8), (1, num_bytes))
    splits = {"train": [Example(pixels, 0, f"{number}") for number in range(count)]}
    return plan_shards(splits, DataSpec(**data), "digest", num_workers)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 97, 1001])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 5, 64])
def test_shards_are_balanced_to_within_one_example(count: int, num_shards: int) -> None:
    plans = planned(count, 10, num_shards=num_shards)
    sizes = [len(plan.examples) for plan in plans]
    assert len(plans) == min(num_shards, count) and sum(sizes) == count and max(sizes) - min(sizes) <= 1
    assert [example.key for plan in plans for example in plan.examples] == [f"{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("mib", "num_workers", "expected"),
    [
        (1, 1, 1),
        (7, 1, 1),
        (20, 1, 5),  # 4 MiB each
        (20, 64, 5),
        (1000, 1, 16),  # enough for sixteen workers
        (1000, 40, 40),  # or for as many as there are
        (6400, 1, 50),  # 128 MiB each
        (6400, 40, 50),
    ],
)
def test_their_number_follows_from_size_and_workers(mib: int, num_workers: int, expected: int) -> None:
    assert len(planned(mib, MIB, num_workers)) == expected


def test_another_size_can_be_asked_for() -> None:
    assert len(planned(100, MIB, shard_bytes=MIB)) == 100
    assert len(planned(100, MIB, shard_bytes=64 * MIB)) == 16
