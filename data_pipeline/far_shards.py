"""Shards of a far store: copies in the cache, fetched ahead in the order they will be read in."""

import contextlib
import logging
import mmap
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.ahead import Ahead
from data_pipeline.cache import Cache, FarObject
from data_pipeline.manifest import Shard
from data_pipeline.shard_files import PAIR_BYTES, Groups, OpenShard, check_index, check_size, crc_of, missing
from storage.data_dir import index_name
from storage.store import NotStored, Store, StoreError

log = logging.getLogger(__name__)

_FETCHES_AT_ONCE = 8
#: Groups that are looked through for a shard that nobody expected yet.
_LOOKED_AHEAD = 4
_MOST_PATIENCE = 2048


@dataclass
class _Plan:
    """Which groups are read now, and which come."""

    groups: Groups
    before: dict[int, None]
    now: dict[int, None]
    next: dict[int, None]
    records: int = 0  # read of this group
    sent: bool = False  # for the next

    def advance(self, number: int) -> bool:
        """Go on to the group that `number` is in; False if it is not near."""
        for _ in range(_LOOKED_AHEAD):
            self.before, self.now, self.next = self.now, self.next, _keys(self.groups)
            self.records, self.sent = 0, False
            if number in self.now:
                return True
        return False


class FarShards:
    """Shards of a far store, read from copies in the cache, which are fetched ahead in the order they are needed."""

    def __init__(self, store: Store, shards: list[Shard], cache: Cache, check: Callable[[int, OpenShard], None]):
        """`check` is shown a fetched shard whose checksum is not the manifest's; it raises if it must not be used."""
        self._cache, self._shards, self._check = cache, shards, check
        self._indexes = [_far_index(store, shard) for shard in shards]
        self._files = [
            FarObject(store, shard.name, shard.num_bytes, shard.crc32c, partial(self._verify, number))
            for number, shard in enumerate(shards)
        ]
        self._ahead = Ahead(_FETCHES_AT_ONCE)
        self._coming: dict[int, Future[None]] = {}
        self._given_up: set[int] = set()
        self._failure: StoreError | None = None
        self._lock = threading.Lock()
        self._groups: Callable[[], Groups] = lambda: iter(())
        self._plan: _Plan | None = None
        weakref.finalize(self, self._ahead.close)

    @contextlib.contextmanager
    def open(self, number: int, records: int = 1) -> Iterator[OpenShard]:
        """The shard, fetched if need be. It is not evicted while the block lasts."""
        if self._failure is not None:
            raise self._failure
        self._expect(number, records)
        try:
            self._await(number)
            with self._cache.open(self._indexes[number]) as index, self._cache.open(self._files[number]) as file:
                yield OpenShard(file, _mapped(index, self._shards[number]))
        except NotStored as error:
            raise missing(self._files[number].url, "shard or its index") from error
        except StoreError as error:  # it was tried for long: who asks for the next need not try again
            self._failure = error
            raise

    def follow(self, groups: Callable[[], Groups]) -> None:
        """Fetch ahead in the order that `groups` begins with each time it is called."""
        with self._lock:
            self._groups, self._plan = groups, None

    def damaged_copy(self, number: int) -> bool:
        """Whether the copy is damaged, which happens to it once and not to what is far away."""
        item = self._files[number]
        with self._cache.open(item) as file:
            whole = crc_of(file) == item.crc32c
        if whole or number in self._given_up:
            return False
        log.warning("%s: the copy in %s is damaged; fetched again", item.url, self._cache.folder)
        self._given_up.add(number)
        self._cache.discard(item)
        return True

    def close(self) -> None:
        """Fetch no more."""
        self._ahead.close()

    def _expect(self, number: int, records: int) -> None:
        """Follow the plan to the group that this shard is in, and send for what comes after."""
        with self._lock:
            plan = self._plan = self._plan or self._begun()
            if number not in plan.now and number not in plan.before and not plan.advance(number):
                plan = self._plan = self._begun()
                if number not in plan.now:
                    plan.advance(number)
            if not plan.records:
                for expected in plan.now:
                    self._cache.touch(self._files[expected])
                self._send_for(plan.now)
            plan.records += records
            if not plan.sent and plan.records > self._patience(plan):
                plan.sent = True
                self._send_for(plan.next)

    def _begun(self) -> _Plan:
        groups = self._groups()
        return _Plan(groups, {}, _keys(groups), _keys(groups))

    def _patience(self, plan: _Plan) -> int:
        """Records of a group that are read before the next is sent for: the other workers shall have left the last."""
        return min(_MOST_PATIENCE, sum(self._shards[number].num_examples for number in plan.now) // 16)

    def _send_for(self, numbers: Iterable[int]) -> None:
        self._coming = {number: coming for number, coming in self._coming.items() if not coming.done()}
        for number in numbers:
            if number not in self._coming:
                self._coming[number] = self._ahead.submit(partial(self._fetch, number))

    def _fetch(self, number: int) -> None:
        self._cache.fetch(self._indexes[number])
        self._cache.fetch(self._files[number])

    def _await(self, number: int) -> None:
        """Wait for a fetch that has begun; one that has not is taken over. What failed there fails here."""
        with self._lock:
            coming = self._coming.get(number)
        if coming is not None and not coming.cancel():
            coming.result()

    def _verify(self, number: int, path: Path) -> None:
        shard, url = self._shards[number], self._files[number].url
        check_size(url, path, shard.num_bytes, "shard")
        with path.open("rb") as file:
            if crc_of(file.fileno()) == shard.crc32c:
                return
            with self._cache.open(self._indexes[number]) as index:
                self._check(number, OpenShard(file.fileno(), _mapped(index, shard)))


def _keys(groups: Groups) -> dict[int, None]:
    """The next group, as a set in order."""
    return dict.fromkeys(next(groups, []))


def _far_index(store: Store, shard: Shard) -> FarObject:
    name = index_name(shard.name)
    url = f"{store.url}/{name}"
    return FarObject(
        store, name, shard.num_examples * PAIR_BYTES, shard.index_crc32c, lambda path: check_index(url, path, shard)
    )


def _mapped(index: int, shard: Shard) -> NDArray[np.uint64]:
    """The offsets and lengths in an open index file."""
    if not shard.num_examples:
        return np.empty((0, 2), np.uint64)
    return np.frombuffer(mmap.mmap(index, 0, prot=mmap.PROT_READ), "<u8").reshape(-1, 2)
