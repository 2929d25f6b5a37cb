"""A few examples of each class of a prepared set, found by reading no more shards than are needed."""

from dataclasses import dataclass, replace

import numpy as np

from conf.schema import BadRecord, DataSpec
from data_pipeline.manifest import Manifest, Split
from data_pipeline.order import Places
from data_pipeline.reader import PLACEHOLDER, RecordReader
from data_pipeline.records import CorruptRecord, Record, decode

_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """Some shards of one split, as a set of their own. `numbers` are its examples' in the whole split."""

    manifest: Manifest
    split: str
    numbers: Places

    def reader(self, data: DataSpec) -> RecordReader:
        """Its records; they are numbered from 0 here."""
        return RecordReader(self.manifest, self.split, data.max_corrupt if data.on_corrupt is BadRecord.skip else 0)


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


def find_examples(part: Part, reader: RecordReader, per_class: int) -> list[Places]:
    """For each class the numbers, in `part`, of its first examples. Corrupt ones that are skipped are none of them."""
    found: list[list[int]] = [[] for _ in part.manifest.classes]
    missing = sum(min(per_class, count) for count in part.manifest.splits[part.split].class_counts)
    for start in range(0, reader.num_examples, _AT_ONCE):
        if not missing:
            break
        numbers = np.arange(start, min(start + _AT_ONCE, reader.num_examples))
        for number, example in zip(numbers.tolist(), reader.read(numbers), strict=True):
            if example == PLACEHOLDER:
                continue
            own = found[label_of(example, part.manifest)]
            if len(own) < per_class:
                own.append(number)
                missing -= 1
    return [np.array(own, np.int64) for own in found]


def read_records(reader: RecordReader, numbers: Places) -> list[Record]:
    """The records with these numbers of a part."""
    return [decode(example) for example in reader.read(numbers)]


def label_of(example: bytes, manifest: Manifest) -> int:
    """The class of a serialized Example; CorruptRecord where it has none that the manifest knows."""
    try:
        record = decode(example)
    except ValueError as error:
        raise CorruptRecord(f"{manifest.url}: a record is no example: {error} - prepare the set again") from error
    if not 0 <= record.label < manifest.num_classes:
        law = f"has label {record.label}, the manifest knows {manifest.num_classes} classes"
        raise CorruptRecord(f"{manifest.url}: example {record.key} {law} - prepare the set again")
    return record.label
