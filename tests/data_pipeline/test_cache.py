"""The cache before a real GCS server: shared, bounded, verified, and safe whatever dies, when and how."""

import contextlib
import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conf.errors import BadSpec
from data_pipeline import cache as cache_module
from data_pipeline.cache import Cache, FarObject, open_cache
from data_pipeline.manifest import Manifest
from data_pipeline.reader import RecordReader
from data_pipeline.records import CorruptRecord
from storage.names import UNFINISHED
from storage.store import StoreError, open_store
from tests.storage.fault_proxy import Fault, FaultProxy

Prepare = Callable[..., Manifest]
SHARDS = 8

#: Another process that reads every example of the training split, and says how much it read.
READ_ALL = """
import sys, numpy as np
from data_pipeline.manifest import load_manifest
from data_pipeline.reader import RecordReader
url, folder, cache_bytes = sys.argv[1:]
reader = RecordReader(load_manifest(url), "train", cache_dir=folder, cache_bytes=int(cache_bytes))
print("ready", flush=True)
sys.stdin.readline()
print(sum(len(example) for start in range(0, reader.num_examples, 100)
          for example in reader.read(np.arange(start, min(start + 100, reader.num_examples)))), flush=True)
"""


def everything(manifest: Manifest) -> list[bytes]:
    return RecordReader(manifest, "train").read(np.arange(manifest.splits["train"].num_examples))


def split_bytes(manifest: Manifest) -> int:
    return sum(shard.num_bytes + 16 * shard.num_examples for shard in manifest.splits["train"].shards)


def fetches(proxy: FaultProxy) -> list[str]:
    """The shards that were downloaded, in order."""
    media = [line for line in proxy.seen if "alt=media" in line and "manifest" not in line and ".index" not in line]
    return [line.partition("train-")[2][:5] for line in media]


def copies(folder: Path) -> dict[str, int]:
    found = {}
    for path in folder.glob("*/*"):
        # A shard that is fetched ahead may evict another between the listing and the look at its size.
        with contextlib.suppress(FileNotFoundError):
            if path.name != "room":
                found[path.name] = path.stat().st_size
    return found


def test_shards_are_fetched_once_and_are_what_was_prepared(
    near: Manifest,
    far: Manifest,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    expected = everything(near)
    for _ in range(2):  # the second reader finds everything here
        reader = RecordReader(far, "train", cache_dir=str(tmp_path))
        assert reader.read(np.arange(reader.num_examples)) == expected
        reader.close()
    assert sorted(fetches(proxy)) == [f"{number:05d}" for number in range(SHARDS)]
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"convoy-shards-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    assert sum(copies(tmp_path).values()) == split_bytes(far)


@pytest.mark.parametrize("kind", ["status", "reset", "cut", "flip"])
def test_faults_on_the_way_change_nothing(
    near: Manifest,
    far: Manifest,
    proxy: FaultProxy,
    tmp_path: Path,
    kind: str,
) -> None:
    """Every fourth download breaks; what is read is what was prepared."""
    faults = [Fault(kind, "GET", "alt=media", skip=skip) for skip in range(0, 12, 4)]
    proxy.faults = list(faults)
    cache_bytes = split_bytes(far) // 2
    reader = RecordReader(far, "train", cache_dir=str(tmp_path), cache_bytes=cache_bytes)
    assert reader.read(np.arange(reader.num_examples)) == everything(near)
    assert all(fault.uses == 0 for fault in faults), "a fault was never met"


def test_a_shard_that_never_comes_is_named(far: Manifest, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.faults = [Fault("status", "GET", r"train-00003-of-00008\.tfrecord\?", uses=-1)]
    reader = RecordReader(far, "train", cache_dir=str(tmp_path))
    with pytest.raises(StoreError, match=rf"{far.url}/train-00003-of-00008\.tfrecord: cannot read - .*503"):
        reader.read(np.arange(reader.num_examples))
    assert not any("train-00003-of-00008.tfrecord" in name and "index" not in name for name in copies(tmp_path))


def test_a_set_larger_than_the_cache_passes_through_it_group_by_group(
    near: Manifest,
    far: Manifest,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """The bound holds at every moment, and each shard is fetched once an epoch."""
    cache_bytes = split_bytes(far) // 2
    reader = RecordReader(far, "train", cache_dir=str(tmp_path), cache_bytes=cache_bytes)
    expected, found, most = everything(near), [], 0
    for start in range(0, reader.num_examples, 16):
        found += reader.read(np.arange(start, min(start + 16, reader.num_examples)))
        most = max(most, sum(copies(tmp_path).values()))
    assert found == expected
    assert split_bytes(far) // 4 < most <= cache_bytes
    reader.close()
    once = fetches(proxy)[:SHARDS]
    assert sorted(once) == [f"{number:05d}" for number in range(SHARDS)]
    ahead = [abs(int(shard) - place) for place, shard in enumerate(once)]
    assert max(ahead) < 4, "shards come in the order they are needed"


def test_two_processes_fetch_each_shard_once(near: Manifest, far: Manifest, proxy: FaultProxy, tmp_path: Path) -> None:
    with reading(far, tmp_path) as first, reading(far, tmp_path) as second:
        proxy.seen.clear()
        for process in (first, second):
            answer(process)
        totals = [int(process.stdout.readline()) for process in (first, second)]
    assert sorted(fetches(proxy)) == [f"{number:05d}" for number in range(SHARDS)]
    assert totals[0] == totals[1] == sum(len(example) for example in everything(near))


def test_two_jobs_share_a_cache_too_small_for_both(far: Manifest, tmp_path: Path) -> None:
    """They get slower, and each reads everything."""
    third = split_bytes(far) // 3
    with reading(far, tmp_path, third) as first, reading(far, tmp_path, third) as second:
        for process in (first, second):
            answer(process)
        totals = [int(process.stdout.readline()) for process in (first, second)]
    assert totals[0] == totals[1] > 0
    assert sum(copies(tmp_path).values()) <= split_bytes(far) // 3


def test_a_process_killed_in_a_fetch_leaves_nothing_in_the_way(
    near: Manifest,
    far: Manifest,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    proxy.faults = [Fault("stall", "GET", r"tfrecord\?.*alt=media", uses=-1)]
    with reading(far, tmp_path) as process:
        answer(process)
        wait_until(lambda: len(list(tmp_path.glob("*/.*.unfinished"))) >= 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = list(tmp_path.glob("*/*.fetching"))
    assert len(left) >= 3, "it died too late to tell anything"
    proxy.faults = []
    proxy.released.set()
    reader = RecordReader(far, "train", cache_dir=str(tmp_path))
    assert reader.read(np.arange(reader.num_examples)) == everything(near)
    reader.close()
    assert all(".fetching" not in name and ".part" not in name for name in copies(tmp_path))


def test_what_a_killed_process_left_of_a_shard_goes_when_it_is_fetched(
    far: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes room spares it while the shard is being fetched, and may be the last one who makes room."""
    cache = open_cache(str(tmp_path), 1 << 30)
    shard = far.splits["train"].shards[0]
    item = FarObject(open_store(far.url), shard.name, shard.num_bytes, shard.crc32c, lambda _: None)
    left = cache.folder / f".{item.key}.part.1234{UNFINISHED}"
    left.write_bytes(b"half")
    monkeypatch.setattr(Cache, "_claimed_bytes", lambda _: 0)
    cache.fetch(item)
    assert [path.name for path in cache.folder.iterdir() if path.name != "room"] == [item.key]


def test_of_two_jobs_that_share_a_cache_one_is_killed_in_a_fetch_and_the_other_gets_everything(
    near: Manifest, far: Manifest, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The one that goes on waits for shards that the other is fetching when it dies."""
    proxy.faults = [Fault("stall", "GET", r"tfrecord\?.*alt=media", uses=3)]
    with reading(far, tmp_path) as killed, reading(far, tmp_path) as other:
        answer(killed)
        wait_until(lambda: proxy.faults[0].uses == 0 and len(list(tmp_path.glob("*/.*.unfinished"))) >= 3)
        answer(other)
        time.sleep(1)  # it comes to the shards that it waits for
        assert other.poll() is None and not select.select([other.stdout], [], [], 0)[0]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        total = int(other.stdout.readline())
    assert total == sum(len(example) for example in everything(near))
    assert set(fetches(proxy)) == {f"{number:05d}" for number in range(SHARDS)}
    proxy.released.set()


def test_a_process_ends_without_waiting_for_what_it_fetches_ahead(
    far: Manifest, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.faults = [Fault("stall", "GET", r"train-0000[1-7].*\.tfrecord\?", uses=-1)]
    script = READ_ALL.partition("print(sum")[0] + "reader.read(np.arange(3))"
    command = [sys.executable, "-c", script, far.url, str(tmp_path), str(1 << 30)]
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=40)
    assert ended.returncode == 0 and not proxy.released.is_set()
    assert set(fetches(proxy)) - {"00000"}, "nothing was fetched ahead"  # whichever the threads came to first
    proxy.released.set()


def test_a_process_that_stands_still_in_a_fetch_is_spoken_of(
    far: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "DEADLINE_S", 0.3)
    cache, item = open_cache(str(tmp_path), 1 << 20), shard_object(far, 2)
    with (cache.folder / f"{item.key}.fetching").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        with pytest.raises(
            StoreError, match=rf"{item.name}: cannot read - .* fetching it for 0\.3 s - look for a stopped"
        ):
            cache.fetch(item)
    cache.fetch(item)  # the lock has ended with its owner


def test_what_is_in_use_stays_and_of_the_rest_the_oldest_goes(far: Manifest, tmp_path: Path) -> None:
    items = [shard_object(far, number) for number in range(5)]
    cache = Cache(open_cache(str(tmp_path), 1).folder, sum(item.num_bytes for item in items[:3]))
    with cache.open(items[0]) as held:
        for age, item in enumerate(items[:3]):
            cache.fetch(item)
            os.utime(cache.folder / item.key, (age, age))
        cache.touch(items[1])
        cache.fetch(items[3])
        assert here(cache, items) == [0, 1, 3], "0 is the oldest but held, 1 was used again"
        os.utime(cache.folder / items[1].key, (5, 5))
        assert len(os.pread(held, 1 << 20, 0)) == items[0].num_bytes
    cache.fetch(items[4])
    assert here(cache, items) == [1, 3, 4]


def test_room_that_nobody_gives_up_is_spoken_of(far: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "DEADLINE_S", 0.3)
    first, second = shard_object(far, 0), shard_object(far, 1)
    cache = Cache(open_cache(str(tmp_path), 1).folder, first.num_bytes + second.num_bytes - 1)
    with cache.open(first), pytest.raises(BadSpec, match=r"data\.cache_bytes=.* in use by the jobs of this host"):
        cache.fetch(second)
    cache.fetch(second)
    assert here(cache, [first, second]) == [1]


def test_a_damaged_copy_is_fetched_again(near: Manifest, far: Manifest, proxy: FaultProxy, tmp_path: Path) -> None:
    """A bit that the disk has lost, and a copy that was cut off."""
    expected = everything(near)
    reader = RecordReader(far, "train", cache_dir=str(tmp_path))
    assert reader.read(np.arange(reader.num_examples)) == expected
    paths = [path for path in tmp_path.glob("*/*tfrecord")]
    data = bytearray(paths[0].read_bytes())
    data[len(data) // 2] ^= 1
    paths[0].write_bytes(data)
    os.truncate(paths[1], 100)
    proxy.seen.clear()
    assert reader.read(np.arange(reader.num_examples)) == expected
    assert len(fetches(proxy)) == 2


def test_a_shard_damaged_far_away_names_the_record(own_far: Manifest, tmp_path: Path) -> None:
    far = own_far
    store, shard = open_store(far.url), far.splits["train"].shards[2]
    data = bytearray(store.get(shard.name))
    offset, length = np.frombuffer(store.get(f"{shard.name}.index"), "<u8").reshape(-1, 2)[7].tolist()
    data[offset + length // 2] ^= 1
    store.put(shard.name, bytes(data))
    first_of_shard = sum(other.num_examples for other in far.splits["train"].shards[:2])
    reader = RecordReader(far, "train", cache_dir=str(tmp_path))
    with pytest.raises(CorruptRecord, match=rf"{shard.name}: corrupt record 7 at byte {offset} - its checksum"):
        reader.read(np.array([first_of_shard]))  # another record: the shard as a whole is verified
    assert not any(shard.name in name and ".index" not in name for name in copies(tmp_path))
    told = []
    lenient = RecordReader(far, "train", 1, str(tmp_path), tell=told.append)
    lenient.read(np.arange(reader.num_examples))
    assert [(skipped.shard, skipped.record) for skipped in told] == [(shard.name, 7)] and lenient.num_skipped == 1


def test_a_shard_damaged_between_its_records_is_named(own_far: Manifest, tmp_path: Path) -> None:
    store, shard = open_store(own_far.url), own_far.splits["train"].shards[0]
    data = bytearray(store.get(shard.name))
    data[3] ^= 1  # of the length before the first record, which nobody reads
    store.put(shard.name, bytes(data))
    with pytest.raises(CorruptRecord, match=rf"{shard.name}: its checksum is not the manifest's, though no record"):
        RecordReader(own_far, "train", cache_dir=str(tmp_path)).read(np.array([0]))


def test_what_the_bucket_lacks_is_named_at_once(own_far: Manifest, tmp_path: Path) -> None:
    far = own_far
    store, shard = open_store(far.url), far.splits["train"].shards[1]
    store.put(shard.name, b"short")
    with pytest.raises(CorruptRecord, match=rf"{shard.name}: has 5 bytes, the manifest says {shard.num_bytes}"):
        RecordReader(far, "train", cache_dir=str(tmp_path))
    store.delete(shard.name)
    with pytest.raises(CorruptRecord, match=rf"{shard.name}: the shard is missing"):
        RecordReader(far, "train", cache_dir=str(tmp_path))


def test_a_cache_too_small_for_two_shards_is_refused(far: Manifest, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=r"data\.cache_bytes=50000 - the largest shard of .* - data\.cache_bytes=\d+, or"):
        RecordReader(far, "train", cache_dir=str(tmp_path), cache_bytes=50_000)


def test_a_full_disk_is_one_problem_of_the_job(far: Manifest, tmp_path: Path) -> None:
    """Foreseen where it can be; else said when it happens (here: this process may write no file as large)."""
    cache, item = open_cache(str(tmp_path), 1 << 62), shard_object(far, 0)
    with pytest.raises(BadSpec, match=r"data\.cache_dir=.* bytes free, and up to \d+ more are to go there"):
        cache.check_disk(1 << 60)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (item.num_bytes, before[1]))
    try:
        cache.fetch(item)
        resource.setrlimit(resource.RLIMIT_FSIZE, (item.num_bytes - 1, before[1]))
        cache.discard(item)
        with pytest.raises(BadSpec, match=rf"data\.cache_dir=.* the disk is full: {item.url}"):
            cache.fetch(item)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert copies(tmp_path) == {}


def test_a_folder_that_others_can_open_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / f"convoy-shards-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(BadSpec, match=r"data\.cache_dir=.* this user alone"):
        open_cache(str(tmp_path), 1)
    folder.rmdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSpec, match=r"data\.cache_dir=.* cannot be made"):
        open_cache(str(tmp_path / "file"), 1)


def shard_object(manifest: Manifest, number: int) -> FarObject:
    shard = manifest.splits["train"].shards[number]
    return FarObject(open_store(manifest.url), shard.name, shard.num_bytes, shard.crc32c, lambda path: None)


def here(cache: Cache, items: list[FarObject]) -> list[int]:
    return [number for number, item in enumerate(items) if (cache.folder / item.key).exists()]


class reading:
    """A process that reads everything as soon as it is answered."""

    def __init__(self, far: Manifest, folder: Path, cache_bytes: int = 1 << 30):
        self.command = [sys.executable, "-c", READ_ALL, far.url, str(folder), str(cache_bytes)]

    def __enter__(self) -> subprocess.Popen[str]:
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            self.command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def answer(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
