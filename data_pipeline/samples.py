"""A few examples of each class of a prepared set, found by reading no more shards than are needed."""

from dataclasses import dataclass, replace

import numpy as np

from conf.schema import DataSpec
from data_pipeline.manifest import Manifest, Split
from data_pipeline.order import Places
from data_pipeline.reader import PLACEHOLDER, RecordReader, open_split
from data_pipeline.records import CorruptRecord, Record, decode

_PLACEHOLDER = decode(PLACEHOLDER)


@dataclass(frozen=True)
class Part:
    """Some shards of one split, as a set of their own. `numbers` are its examples' in the whole split."""

    manifest: Manifest
    split: str
    numbers: Places

    def reader(self, data: DataSpec) -> RecordReader:
        """Its records; they are numbered from 0 here."""
        return open_split(self.manifest, self.split, data)


def part_with(manifest: Manifest, split: str, per_class: int) -> Part:
    """The first shards that hold `per_class` examples of each class, or all that there are of a class."""
    whole = manifest.splits[split]
    wanted = np.minimum(whole.class_counts, per_class)
    shards, numbers, start = [], [np.empty(0, np.int64)], 0
    for shard in whole.shards:
        counts = np.array(shard.class_counts)
        if (np.minimum(counts, wanted) > 0).any():
            wanted = np.maximum(wanted - counts, 0)
            shards.append(shard)
            numbers.append(np.arange(start, start + shard.num_examples))
        start += shard.num_examples
    counted = [sum(column) for column in zip(*(shard.class_counts for shard in shards), strict=True)]
    own = Split(sum(counted), counted, shards)
    return Part(replace(manifest, splits={split: own}), split, np.concatenate(numbers))


def find_examples(reader: RecordReader, num_classes: int, per_class: int) -> list[Places]:
    """For each class the numbers, as the reader has them, of its first examples."""
    labels = reader.labels()
    return [np.flatnonzero(labels == label)[:per_class] for label in range(num_classes)]


def read_records(reader: RecordReader, numbers: Places) -> list[Record]:
    """The records with these numbers; CorruptRecord where one is no example."""
    try:
        return [decode(example) for example in reader.read(numbers)]
    except ValueError as error:
        raise CorruptRecord(f"a record is no example: {error} - prepare the set again") from error


def is_placeholder(record: Record) -> bool:
    """Whether this stands for a corrupt record that is skipped."""
    return record == _PLACEHOLDER
