"""Objects from far away on this machine's disk: fetched once for all its processes, verified, and bounded in bytes.

The folder is one of this user's below `data.cache_dir`. In it, for an object KEY:

    KEY            whole and verified; its time of change is when it was last used
    KEY.fetching   one process fetches it and holds the file's lock; its size is what the object will take up
    KEY.part       and .KEY.part.*: what is being written, renamed to KEY when it is whole
    room           locked while room is made

All locks are flock's, so that they end with their process however it ends: what a killed one has left behind is
removed by whoever makes room next. Who uses an object holds its shared lock, and only what nobody holds is evicted, the
least recently used first. Nothing is held while waiting for something else but the claim to fetch a single object, so
two jobs whose cache is too small for both get slower but do not wait for one another in a circle.
"""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from conf.errors import BadSpec
from data_pipeline.records import masked_crc
from storage.names import UNFINISHED
from storage.staging import temporary_folder
from storage.store import Store, StoreError

log = logging.getLogger(__name__)

#: How long is waited for another process of this host: to fetch an object, or to let go of one.
DEADLINE_S = 300.0
_POLL_S = 0.05
_FETCHING, _PART, _ROOM = ".fetching", ".part", "room"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class FarObject:
    """An object of a store. `verify` is shown the fetched file before anybody may use it, and raises if it is wrong."""

    store: Store
    name: str
    num_bytes: int
    crc32c: int
    verify: Callable[[Path], None]

    @property
    def key(self) -> str:
        """The name of its copy: another version of it, or the like of another set, has another."""
        return f"{masked_crc(self.store.url.encode()):08x}-{self.crc32c:08x}-{quote(self.name, safe='')}"

    @property
    def url(self) -> str:
        """Where it comes from."""
        return f"{self.store.url}/{self.name}"


def open_cache(folder: str | None, max_bytes: int) -> "Cache":
    """The cache of this user below `folder`, by default the temporary folder. BadSpec where there can be none.

    A folder that somebody else has made there is not trusted.
    """
    own = Path(folder or temporary_folder(), f"convoy-shards-{os.getuid()}")
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = own.lstat()
    except OSError as error:
        law = f"cannot be made: {error.strerror}"
        raise BadSpec.of("data.cache_dir", own, law, "data.cache_dir=FOLDER that this user may write to") from error
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        law = "is not a folder that this user alone can open"
        raise BadSpec.of("data.cache_dir", own, law, "remove it, or set data.cache_dir to a folder of your own")
    return Cache(own, max_bytes)


class Cache:
    """Copies of far objects in `folder`, together at most `max_bytes`. Safe for any number of threads and processes."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes

    @contextlib.contextmanager
    def open(self, item: FarObject) -> Iterator[int]:
        """The object as an open file, fetched if need be; it is not evicted while it is open."""
        file = self._find(item)
        if file is None:
            file = self._fetch(item)
        try:
            yield file
        finally:
            os.close(file)

    def fetch(self, item: FarObject) -> None:
        """See that the object is here, for somebody who will use it soon."""
        with self.open(item):
            pass

    def touch(self, item: FarObject) -> None:
        """Let it count as used now, if it is here."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.folder / item.key)

    def discard(self, item: FarObject) -> None:
        """Forget this copy, whoever is reading it: the next who needs the object fetches it again."""
        (self.folder / item.key).unlink(missing_ok=True)

    def check_disk(self, needed: int) -> None:
        """Raise BadSpec where the disk is too full for `needed` bytes of copies, counting what is here already."""
        free = shutil.disk_usage(self.folder).free
        here = sum(size for _, size, _ in self._copies())
        if free + here < min(needed, self.max_bytes):
            law = f"the disk has {free} bytes free, and up to {min(needed, self.max_bytes) - here} more are to go there"
            raise BadSpec.of("data.cache_dir", self.folder, law, "another folder, or a smaller data.cache_bytes")

    def _find(self, item: FarObject) -> int | None:
        """The copy, opened and held, if it is here."""
        path = self.folder / item.key
        while True:
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            try:
                _wait_for(file, fcntl.LOCK_SH, f"{path}: another process has been removing it", item)
                found = os.fstat(file)
                if found.st_nlink and found.st_size == item.num_bytes:
                    return file
                if found.st_nlink:
                    log.warning("%s: has %d bytes, not %d; fetched again", path, found.st_size, item.num_bytes)
                    self.discard(item)
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _fetch(self, item: FarObject) -> int:
        """Fetch the object, or wait for the process that does; the copy, opened and held."""
        with self._full_disk_named(item), self._claim(item) as claim:
            file = self._find(item)
            if file is not None:  # another was faster
                return file
            self._sweep(item)
            self._make_room(item, claim)
            return self._download(item)

    def _sweep(self, item: FarObject) -> None:
        """Remove what a killed process has left of this object; who holds its claim is the only one who writes it."""
        for path in self.folder.glob(f".{item.key}{_PART}*{UNFINISHED}"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _full_disk_named(self, item: FarObject) -> Iterator[None]:
        try:
            yield
        except (StoreError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _FULL:
                raise
            law = f"the disk is full: {item.url} with its {item.num_bytes} bytes cannot be written"
            cure = "free some space, a data.cache_dir elsewhere, or a smaller data.cache_bytes"
            raise BadSpec.of("data.cache_dir", self.folder, law, cure) from error

    @contextlib.contextmanager
    def _claim(self, item: FarObject) -> Iterator[int]:
        """The right to fetch this object, which one thread of this host has at a time."""
        path = self.folder / f"{item.key}{_FETCHING}"
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _wait_for(file, fcntl.LOCK_EX, f"{path}: another process of this host has been fetching it", item)
                if _names(path, file):
                    break
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # it was done, and has removed the file
        try:
            os.ftruncate(file, 0)
            yield file
        finally:
            path.unlink(missing_ok=True)
            os.close(file)

    def _make_room(self, item: FarObject, claim: int) -> None:
        """Evict until the object fits, and take its bytes."""
        if item.num_bytes > self.max_bytes:
            law = f"{item.url} alone has {item.num_bytes} bytes"
            raise BadSpec.of("data.cache_bytes", self.max_bytes, law, f"data.cache_bytes={2 * item.num_bytes}")
        deadline = time.monotonic() + DEADLINE_S
        while not self._took_room(item, claim):
            if time.monotonic() > deadline:
                law = (
                    f"for {DEADLINE_S:g} s all of it was in use by the jobs of this host, and {item.url} found no room"
                )
                cure = "a larger data.cache_bytes, or a data.cache_dir for each job"
                raise BadSpec.of("data.cache_bytes", self.max_bytes, law, cure)
            time.sleep(_POLL_S)

    def _took_room(self, item: FarObject, claim: int) -> bool:
        room = os.open(self.folder / _ROOM, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _wait_for(room, fcntl.LOCK_EX, f"{self.folder / _ROOM}: another process has been making room", item)
            taken = self._claimed_bytes() + item.num_bytes
            copies = sorted(self._copies())
            total = taken + sum(size for _, size, _ in copies)
            for _, size, path in copies:
                if total <= self.max_bytes:
                    break
                if _removed(path):
                    total -= size
            if total > self.max_bytes:
                return False
            os.ftruncate(claim, item.num_bytes)
            return True
        finally:
            os.close(room)

    def _claimed_bytes(self) -> int:
        """What objects that are being fetched will take up. Removes what dead processes have left."""
        claimed, alive = 0, set()
        for path in self.folder.glob(f"*{_FETCHING}"):
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                if not _removed(path):
                    claimed += size
                    alive.add(path.name.removesuffix(_FETCHING))
        for path in [*self.folder.glob(f"*{_PART}"), *self.folder.glob(f".*{UNFINISHED}")]:
            if path.name.lstrip(".").partition(_PART)[0] not in alive:
                path.unlink(missing_ok=True)
        return claimed

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """When each whole copy was last used, its bytes, and where it is."""
        for entry in os.scandir(self.folder):
            if entry.name != _ROOM and not entry.name.startswith(".") and not entry.name.endswith((_FETCHING, _PART)):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    yield found.st_mtime, found.st_size, Path(entry.path)

    def _download(self, item: FarObject) -> int:
        """Fetch and verify. The copy is held before it has its name, so that it is not evicted at once."""
        part = self.folder / f"{item.key}{_PART}"
        try:
            item.store.get_file(item.name, part)
            item.verify(part)
            file = os.open(part, os.O_RDONLY)
            fcntl.flock(file, fcntl.LOCK_SH)
            os.replace(part, self.folder / item.key)
            return file
        finally:
            part.unlink(missing_ok=True)


def _wait_for(file: int, lock: int, what: str, item: FarObject) -> None:
    """Take the lock; StoreError says what did not happen in time."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return fcntl.flock(file, lock | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                cure = "look for a stopped Convoy process on this host, or use another data.cache_dir"
                raise StoreError(f"{item.url}: cannot read - {what} for {DEADLINE_S:g} s - {cure}") from error
        time.sleep(_POLL_S)


def _names(path: Path, file: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _removed(path: Path) -> bool:
    """Remove a file that nobody holds; say whether it is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _names(path, file):  # meanwhile somebody has made it anew
            return False
        path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(file)
