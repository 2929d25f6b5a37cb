"""Which examples a step of a training saw, by name: for a report of what is wrong with them.

The order is a pure function, so nothing had to be remembered while training.
"""

from dataclasses import dataclass

from conf.schema import DataSpec
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape, position_of
from data_pipeline.pipeline import training_order
from data_pipeline.reader import open_split
from data_pipeline.report import stored_keys
from storage.store import open_store


@dataclass(frozen=True)
class NamedExample:
    """One example: its place in the epoch's order, where it is stored, and what its source calls it."""

    place: int
    shard: str
    record: int
    key: str | None  # None in sets of format 1, which do not have it beside their shards


@dataclass(frozen=True)
class NamedBatch:
    """The global batch of one step: its epoch, counted from 0, and its examples in their order."""

    epoch: int
    examples: list[NamedExample]


def name_batch(manifest: Manifest, data: DataSpec, seed: int, global_batch_size: int, step: int) -> NamedBatch:
    """The examples of a training's step (the first is 0), without those that only fill a batch up."""
    reader = open_split(manifest, "train", data)
    try:
        order = training_order(reader, data, seed, BatchShape(global_batch_size), range(1))
        found, position = order.batches(step, 1), position_of(step, order.num_places, global_batch_size, data.remainder)
        records = [reader.record_of(int(example)) for example in found.examples[0][found.mask[0] > 0]]
    finally:
        reader.close()
    store = open_store(manifest.url)
    shards = {shard.name for shard, _ in records if shard.keys_crc32c is not None}
    keys = {name: stored_keys(store, name) for name in shards}
    named = [
        NamedExample(position.place + row, shard.name, record, keys[shard.name][record] if shard.name in keys else None)
        for row, (shard, record) in enumerate(records)
    ]
    return NamedBatch(position.epoch, named)
