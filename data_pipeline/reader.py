"""Any records of a split, by number: reads exactly their bytes and checks their checksums."""

import logging
import os
import struct
import tempfile
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from conf.errors import BadSpec
from conf.schema import Encoding
from data_pipeline.encoding import png
from data_pipeline.manifest import Manifest, Shard
from data_pipeline.order import Places
from data_pipeline.records import CRC_BYTES, CorruptRecord, Record, decode, encode, masked_crc
from storage.data_dir import index_name, labels_name
from storage.store import Store, StoreError, open_store

_PAIR_BYTES = 16
_CRC = struct.Struct("<I")
_log = logging.getLogger(__name__)

#: Takes the place of a corrupt record that is skipped.
PLACEHOLDER = encode(Record(png(np.zeros((1, 1), np.uint8)), "png", 1, 1, 0, ""))


class RecordReader:
    """The records of one split. Shards far away are copied to this machine first, once for all its processes."""

    def __init__(self, manifest: Manifest, split: str, max_corrupt: int = 0):
        self._files: list[int] = []
        self._max_corrupt = max_corrupt
        self._skipped: set[tuple[int, int]] = set()
        if split not in manifest.splits:
            has = ", ".join(manifest.splits)
            raise BadSpec.of("data.path", manifest.url, f"the set has no {split} split", f"it has {has}")
        store = open_store(manifest.url)
        self.shards = manifest.splits[split].shards
        self.encoding = Encoding[manifest.encoding]
        self.num_examples = manifest.splits[split].num_examples
        self._url = manifest.url
        self._starts = np.cumsum([0, *(shard.num_examples for shard in self.shards)])
        self._indexes = [_open_index(store, shard) for shard in self.shards]
        for shard in self.shards:
            self._files.append(_open_shard(store, shard))

    def close(self) -> None:
        """Give the files back."""
        while self._files:
            os.close(self._files.pop())

    def __del__(self) -> None:
        self.close()

    @property
    def num_skipped(self) -> int:
        """How many corrupt records were skipped so far."""
        return len(self._skipped)

    def read(self, examples: Places) -> list[bytes]:
        """The serialized Examples with these numbers.

        CorruptRecord names the first that is not as it was written, once more than `max_corrupt` are not; up to then
        PLACEHOLDER takes their place, each time they are read.
        """
        numbers = np.searchsorted(self._starts, examples, side="right") - 1
        return [
            self._checked(int(number), int(record))
            for number, record in zip(numbers, examples - self._starts[numbers], strict=True)
        ]

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
            raise CorruptRecord(f"{store.url}/{name}: {law} - fetch or prepare the set again")
        return np.frombuffer(data, "<i4").astype(np.int32)

    def _checked(self, number: int, record: int) -> bytes:
        try:
            return self._read(number, record)
        except CorruptRecord as error:
            new = (number, record) not in self._skipped
            if new and len(self._skipped) >= self._max_corrupt:
                raise
            self._skipped.add((number, record))
            if new:
                _log.warning("skipped %s", error)
            return PLACEHOLDER

    def _read(self, number: int, record: int) -> bytes:
        offset, length = (int(part) for part in self._indexes[number][record])
        if offset + length + CRC_BYTES > self.shards[number].num_bytes:
            raise self._corrupt(number, record, offset, f"{length} bytes should be there, the shard ends before")
        file = self._files[number]
        example, stored_crc = os.pread(file, length, offset), os.pread(file, CRC_BYTES, offset + length)
        if len(example) < length or stored_crc != _CRC.pack(masked_crc(example)):
            raise self._corrupt(number, record, offset, "its checksum does not fit its bytes")
        return example

    def _corrupt(self, number: int, record: int, offset: int, what: str) -> CorruptRecord:
        shard = self.shards[number].name
        cure = "fetch or prepare the set again"
        return CorruptRecord(f"{self._url}/{shard}: corrupt record {record} at byte {offset} - {what} - {cure}")


def _open_index(store: Store, shard: Shard) -> NDArray[np.uint64]:
    name = index_name(shard.name)
    path = _local(store, name, shard.index_crc32c)
    _check_size(store, name, path, shard.num_examples * _PAIR_BYTES, "index")
    if shard.index_crc32c and _file_crc(path) != shard.index_crc32c:
        law = "the index is damaged - its checksum is not the manifest's"
        raise CorruptRecord(f"{store.url}/{name}: {law} - fetch or prepare the set again")
    if not shard.num_examples:
        return np.empty((0, 2), np.uint64)
    return np.memmap(path, "<u8", "r").reshape(-1, 2)


def _open_shard(store: Store, shard: Shard) -> int:
    path = _local(store, shard.name, shard.crc32c)
    _check_size(store, shard.name, path, shard.num_bytes, "shard")
    return os.open(path, os.O_RDONLY)


def _check_size(store: Store, name: str, path: Path, expected: int, what: str) -> None:
    url = f"{store.url}/{name}"
    if not path.exists():
        raise CorruptRecord(f"{url}: the {what} is missing - the manifest names it - fetch or prepare the set again")
    size = path.stat().st_size
    if size != expected:
        law = f"has {size} bytes, the manifest says {expected}"
        raise CorruptRecord(f"{url}: {law} - fetch or prepare the set again")


def _local(store: Store, name: str, crc32c: int) -> Path:
    """The object as a file of this machine."""
    path = store.local_path(name)
    if path is not None:
        return path
    path = _cache_folder() / f"{masked_crc(store.url.encode()):08x}-{crc32c:08x}-{name}"
    if not path.exists():
        store.get_file(name, path)
        if _file_crc(path) != crc32c:
            path.unlink()
            raise CorruptRecord(f"{store.url}/{name}: its checksum is not the manifest's - prepare the set again")
    return path


def _cache_folder() -> Path:
    """Where this user's copies are; a folder that somebody else has made there is not trusted."""
    folder = Path(tempfile.gettempdir(), f"convoy-shards-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StoreError(f"{folder}: belongs to another user - remove it, or set TMPDIR to a folder of your own")
    return folder


def _file_crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(4 << 20):
            crc = google_crc32c.extend(crc, chunk)
    return crc
