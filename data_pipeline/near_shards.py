"""Shards on a disk of this machine."""

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np

from data_pipeline.manifest import Shard
from data_pipeline.shard_files import Groups, OpenShard, check_index, missing
from storage.data_dir import index_name
from storage.store import Store

_MOST_OPEN = 256


class NearShards:
    """Shards on a disk of this machine, opened when they are read."""

    def __init__(self, store: Store, shards: list[Shard]):
        self._store, self._shards = store, shards
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._in_use: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    @contextlib.contextmanager
    def open(self, number: int, records: int = 1) -> Iterator[OpenShard]:
        """The shard; a few hundred stay open."""
        with self._lock:
            if number not in self._open:
                self._open[number] = self._opened(self._shards[number])
            self._open.move_to_end(number)
            self._in_use[number] = self._in_use.get(number, 0) + 1
            self._close_idle(_MOST_OPEN)
            shard = self._open[number]
        try:
            yield shard
        finally:
            with self._lock:
                self._in_use[number] -= 1

    def follow(self, groups: Callable[[], Groups]) -> None:
        """Nothing: all of them are here."""

    def damaged_copy(self, number: int) -> bool:
        """False: this is the shard itself."""
        return False

    def close(self) -> None:
        """Give the files back."""
        with self._lock:
            self._close_idle(0)

    def _opened(self, shard: Shard) -> OpenShard:
        path, index = (self._store.local_path(name) for name in (shard.name, index_name(shard.name)))
        assert path is not None and index is not None
        check_index(f"{self._store.url}/{index_name(shard.name)}", index, shard)
        pairs = np.empty((0, 2), np.uint64)
        if shard.num_examples:  # a plain array over the mapping: numpy's own class for it is slow to take from
            pairs = np.asarray(np.memmap(index, "<u8", "r")).reshape(-1, 2)
        try:
            return OpenShard(os.open(path, os.O_RDONLY), pairs)
        except FileNotFoundError as error:
            raise missing(f"{self._store.url}/{shard.name}", "shard") from error

    def _close_idle(self, most: int) -> None:
        for number in list(self._open):
            if len(self._open) <= most:
                return
            if not self._in_use.get(number):
                os.close(self._open.pop(number).file)


def _close_all(shards: dict[int, OpenShard]) -> None:
    while shards:
        os.close(shards.popitem()[1].file)
