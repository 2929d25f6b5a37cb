"""Any records of a split, by number: reads exactly their bytes and checks their checksums.

Whatever is wrong is named with shard, record and offset. It ends the reading, or, within a budget, another record that
weighs nothing takes its place, so that every worker stays in step.
"""

import contextlib
import logging
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from conf.errors import BadSpec
from conf.schema import BadRecord, DataSpec, Encoding
from data_pipeline.cache import open_cache
from data_pipeline.encoding import png
from data_pipeline.far_shards import FarShards
from data_pipeline.manifest import Manifest, Shard
from data_pipeline.near_shards import NearShards
from data_pipeline.order import Blocks, Places
from data_pipeline.records import CRC_BYTES, CorruptRecord, Record, decode, encode, masked_crc
from data_pipeline.shard_files import CURE, PAIR_BYTES, Groups, OpenShard, ShardFiles, missing
from storage.data_dir import MANIFEST, index_name, labels_name
from storage.store import Store, open_store

DEFAULT_CACHE_BYTES = 16 << 30
_REMEMBERED = 40  # reads
_DAMAGED = "its checksum does not fit its bytes"
_CRC = struct.Struct("<I")
_log = logging.getLogger(__name__)

#: Takes the place of a corrupt record that is skipped.
PLACEHOLDER = encode(Record(png(np.zeros((1, 1), np.uint8)), "png", 1, 1, 0, ""))


#: What reads one record: of a shard that is open, its number, the record's, and its offset and length.
_Read = Callable[[OpenShard, int, int, list[int]], Any]
#: Makes room for so many bytes: where they begin, and an array of them.
Room = Callable[[int], tuple[int, NDArray[np.uint8]]]


class Skipped(NamedTuple):
    """A record that is left out, and why."""

    shard: str
    record: int
    reason: str


def open_split(
    manifest: Manifest, split: str, data: DataSpec, tell: Callable[[Skipped], None] | None = None
) -> "RecordReader":
    """The reader of a split as the job wants it read."""
    max_corrupt = data.max_corrupt if data.on_corrupt is BadRecord.skip else 0
    return RecordReader(manifest, split, max_corrupt, data.cache_dir, data.cache_bytes, tell)


class RecordReader:
    """The records of one split. Shards far away are read through the cache in `cache_dir`.

    Up to `max_corrupt` records that are not as they were written are skipped; `tell` hears of each, once.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        max_corrupt: int = 0,
        cache_dir: str | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        tell: Callable[[Skipped], None] | None = None,
    ):
        self._files: ShardFiles | None = None
        self.max_corrupt, self._tell = max_corrupt, tell
        self._skipped: dict[int, Skipped] = {}
        self._recent: deque[Places] = deque(maxlen=_REMEMBERED)
        self.last_read = 0.0
        self.num_classes = manifest.num_classes
        self._lock = threading.Lock()
        if split not in manifest.splits:
            has = ", ".join(manifest.splits)
            raise BadSpec.of("data.path", manifest.url, f"the set has no {split} split", f"it has {has}")
        self.shards = manifest.splits[split].shards
        self.encoding = Encoding[manifest.encoding]
        self.num_examples = manifest.splits[split].num_examples
        self._url = manifest.url
        self._starts = np.cumsum([0, *(shard.num_examples for shard in self.shards)])
        #: What each shard takes up with its index, and all of them.
        self.shard_bytes = [shard.num_bytes + PAIR_BYTES * shard.num_examples for shard in self.shards]
        self.num_bytes = sum(self.shard_bytes)
        store = open_store(manifest.url)
        self.is_near = store.local_path(MANIFEST) is not None
        self._check_presence(store)
        if self.is_near:
            self._files = NearShards(store, self.shards)
        else:
            self._files = self._far_shards(store, cache_dir, cache_bytes)
            self.follow(partial(self._stored_groups, cache_bytes))

    def close(self) -> None:
        """Give the files back."""
        if self._files is not None:
            self._files.close()

    @property
    def num_skipped(self) -> int:
        """How many corrupt records were skipped so far."""
        return len(self._skipped)

    @property
    def mean_bytes(self) -> int:
        """What an example takes up in its shard, on average."""
        return sum(shard.num_bytes for shard in self.shards) // max(self.num_examples, 1)

    def recent(self) -> list[Places]:
        """What was read last, the oldest first: more than what is on its way to the model."""
        return list(self._recent)

    def follow(self, groups: Callable[[], Groups]) -> None:
        """Expect the shards in the order that `groups` begins with each time it is called, and fetch them ahead."""
        assert self._files is not None
        self._files.follow(groups)

    def read(self, examples: Places) -> list[bytes]:
        """The serialized Examples with these numbers.

        CorruptRecord names the first that is not as it was written, once more than `max_corrupt` are not; up to then
        PLACEHOLDER takes their place, each time they are read.
        """
        return self._each(examples, self._read)

    def read_into(self, examples: Places, room: Room) -> list[tuple[int, int]]:
        """The same, read into the `room` that is made for each: where each begins, and its length.

        Nothing can take the place of a corrupt one here: for readers with a `max_corrupt` of 0.
        """

        def read(shard: OpenShard, number: int, record: int, place: list[int]) -> tuple[int, int]:
            return self._read_into(room, shard, number, record, place)

        return self._each(examples, read)

    def _each(self, examples: Places, read: _Read) -> list[Any]:
        """What `read` makes of each of these examples, or PLACEHOLDER."""
        examples = np.asarray(examples)
        self._recent.append(examples)
        self.last_read = time.monotonic()
        numbers = np.searchsorted(self._starts, examples, side="right") - 1
        found: list[Any] = [PLACEHOLDER] * len(examples)
        # Shard by shard, so that each is opened once, and held no longer than it is read.
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            records = (examples[rows] - self._starts[number]).tolist()
            for row, example in zip(rows, self._read_shard(int(number), records, read), strict=True):
                found[row] = example
        return found

    def labels(self) -> NDArray[np.int32]:
        """The label of every example of the split, in stored order, without reading the images.

        Sets of format 1 do not have them beside the shards: there every record is read once.
        """
        parts = [self._shard_labels(number, shard) for number, shard in enumerate(self.shards)]
        return np.concatenate([*parts, np.empty(0, np.int32)])

    def _shard_labels(self, number: int, shard: Shard) -> NDArray[np.int32]:
        if shard.labels_crc32c is None:
            places = np.arange(self._starts[number], self._starts[number + 1])
            return np.array([decode(record).label for record in self.read(places)], np.int32)
        name, store = labels_name(shard.name), open_store(self._url)
        data = store.get(name)
        if len(data) != 4 * shard.num_examples or google_crc32c.value(data) != shard.labels_crc32c:
            law = "the labels are damaged - their checksum is not the manifest's"
            raise CorruptRecord(f"{store.url}/{name}: {law} - {CURE}")
        return np.frombuffer(data, "<i4").astype(np.int32)

    def record_of(self, example: int) -> tuple[Shard, int]:
        """The shard that an example is in, and its record there."""
        number = int(np.searchsorted(self._starts, example, side="right")) - 1
        return self.shards[number], example - int(self._starts[number])

    def skip(self, example: int, reason: str) -> None:
        """Leave this example out from now on; CorruptRecord where it would be one more than `max_corrupt`."""
        number = int(np.searchsorted(self._starts, example, side="right")) - 1
        record = example - int(self._starts[number])
        assert self._files is not None
        with self._files.open(number) as shard:
            offset = int(shard.places[record, 0])
        self._skip(number, record, self._corrupt(number, record, offset, reason))

    def _skip(self, number: int, record: int, error: CorruptRecord) -> None:
        example = int(self._starts[number]) + record
        skipped = Skipped(self.shards[number].name, record, str(error))
        with self._lock:
            if example in self._skipped:
                return
            if len(self._skipped) >= self.max_corrupt:
                raise error
            self._skipped[example] = skipped
        _log.warning("skipped %s", error)
        if self._tell:
            self._tell(skipped)

    def _read_shard(self, number: int, records: list[int], read: _Read) -> list[Any]:
        assert self._files is not None
        with contextlib.ExitStack() as stack:
            try:
                shard = stack.enter_context(self._files.open(number, len(records)))
            except CorruptRecord as error:
                for record in records:
                    self._skip(number, record, error)
                return [PLACEHOLDER] * len(records)
            places = shard.places[records].tolist()
            return [self._checked(shard, number, *each, read) for each in zip(records, places, strict=True)]

    def _checked(self, shard: OpenShard, number: int, record: int, place: list[int], read: _Read) -> Any:
        assert self._files is not None
        if self._skipped and int(self._starts[number]) + record in self._skipped:
            return PLACEHOLDER
        try:
            return read(shard, number, record, place)
        except CorruptRecord as error:
            if self._files.damaged_copy(number):
                return self._read_shard(number, [record], read)[0]
            self._skip(number, record, error)
            return PLACEHOLDER

    def _read(self, shard: OpenShard, number: int, record: int, place: list[int]) -> bytes:
        offset, length = self._place(number, record, place)
        example, stored_crc = os.pread(shard.file, length, offset), os.pread(shard.file, CRC_BYTES, offset + length)
        if len(example) < length or stored_crc != _CRC.pack(masked_crc(example)):
            raise self._corrupt(number, record, offset, _DAMAGED)
        return example

    def _read_into(self, room: Room, shard: OpenShard, number: int, record: int, place: list[int]) -> tuple[int, int]:
        offset, length = self._place(number, record, place)
        begin, bytes_there = room(length + CRC_BYTES)
        num_read = os.preadv(shard.file, [bytes_there.data], offset)
        crc = _CRC.pack(masked_crc(bytes_there[:length]))
        if num_read < length + CRC_BYTES or bytes_there[length:].tobytes() != crc:
            raise self._corrupt(number, record, offset, _DAMAGED)
        return begin, length

    def _place(self, number: int, record: int, place: list[int]) -> list[int]:
        """Where an example begins, and its length."""
        offset, length = place
        if offset + length + CRC_BYTES > self.shards[number].num_bytes:
            raise self._corrupt(number, record, offset, f"{length} bytes should be there, the shard ends before")
        return place

    def _corrupt(self, number: int, record: int, offset: int, what: str) -> CorruptRecord:
        shard = self.shards[number].name
        return CorruptRecord(f"{self._url}/{shard}: corrupt record {record} at byte {offset} - {what} - {CURE}")

    def _check_presence(self, store: Store) -> None:
        """Name a shard or index that is missing or cut off before anything is read, unless such are skipped."""
        expected = [(shard.name, "shard", shard.num_bytes) for shard in self.shards]
        expected += [(index_name(shard.name), "index", shard.num_examples * PAIR_BYTES) for shard in self.shards]
        if self.max_corrupt:
            return
        if self.is_near:
            sizes = {name: _size(store, name) for name, _, _ in expected}
        else:
            sizes = {stored.name: stored.size for stored in store.list()}
        for name, what, num_bytes in expected:
            if sizes.get(name) is None:
                raise missing(f"{store.url}/{name}", what)
            if sizes[name] != num_bytes:
                law = f"has {sizes[name]} bytes, the manifest says {num_bytes}"
                raise CorruptRecord(f"{store.url}/{name}: {law} - {CURE}")

    def _far_shards(self, store: Store, cache_dir: str | None, cache_bytes: int) -> FarShards:
        largest = max(self.shard_bytes, default=0)
        if self.num_bytes > cache_bytes and largest > cache_bytes // 2:
            law = (
                f"the largest shard of {self._url} takes up {largest} bytes, and two must fit: one is read, one fetched"
            )
            cure = f"data.cache_bytes={2 * largest}, or prepare the set in smaller shards with data.shard_bytes"
            raise BadSpec.of("data.cache_bytes", cache_bytes, law, cure)
        cache = open_cache(cache_dir, cache_bytes)
        cache.check_disk(self.num_bytes)
        return FarShards(store, self.shards, cache, self._check_damaged)

    def _stored_groups(self, cache_bytes: int) -> Groups:
        group_bytes = cache_bytes if self.num_bytes <= cache_bytes else cache_bytes // 2
        counts = [shard.num_examples for shard in self.shards]
        return Blocks(counts, self.shard_bytes, group_bytes, shuffle=False).groups_from(0, 0, 0)

    def _check_damaged(self, number: int, shard: OpenShard) -> None:
        """Name the first damaged record of a shard that is not the manifest's, unless such are skipped."""
        url = f"{self._url}/{self.shards[number].name}"
        if self.max_corrupt:
            _log.warning("%s: its checksum is not the manifest's; each record is checked as it is read", url)
            return
        for record in range(self.shards[number].num_examples):
            self._read(shard, number, record, shard.places[record].tolist())
        raise CorruptRecord(f"{url}: its checksum is not the manifest's, though no record is damaged - {CURE}")


def _size(store: Store, name: str) -> int | None:
    path = store.local_path(name)
    return path.stat().st_size if path is not None and path.exists() else None
