"""Preparations that are killed, each one storage operation later than the one before, and then gone on with.

`python -m tests.data_pipeline.killed_preparations ROOT EVERY` tells of each what stood there when it was dead, and what
in the end. EVERY=8 takes every eighth operation alone.
"""

import hashlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable

from conf.data_url import data_url
from conf.schema import DataSpec, JobSpec, StorageSpec
from data_pipeline.manifest import load_manifest
from data_pipeline.prepare import prepare
from storage import whole_files
from storage.data_dir import MANIFEST, is_prepared
from storage.store import open_store
from tests.trainer.killed_writers import Countdown, watch_disk, watch_network

CHUNK_BYTES = 2000


def job(root: str) -> JobSpec:
    """Thirty small pictures: a shard of each split."""
    data = DataSpec(name="synthetic", num_examples=30, num_classes=2, image_size=8, num_shards=1)
    return JobSpec(data=data, storage=StorageSpec(root=root))


def contents(root: str) -> dict[str, str]:
    """Every object of a prepared set, by digest."""
    store = open_store(data_url(job(root)))
    return {stored.name: hashlib.sha256(store.get(stored.name)).hexdigest() for stored in store.list()}


def fork_one(root: str, watch: Callable[[Countdown], None], calls: int) -> bool:
    """Prepare in a process that is killed at that operation; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            watch(Countdown(calls))
            prepare(job(root))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the preparation ended with {status}")
    return status != 0


def main(root: str, every: str) -> None:
    """Kill one at its first operation, another later, until one gets through; print what became of each."""
    whole_files.CHUNK_BYTES = CHUNK_BYTES
    watch = watch_network if root.startswith("gs://") else watch_disk
    prepare(job(f"{root}/whole"))
    whole, told = contents(f"{root}/whole"), []
    for calls in itertools.count(1, int(every)):
        own = f"{root}/{calls:03d}"
        was_killed = fork_one(own, watch, calls)
        url = data_url(job(own))
        looks_prepared = is_prepared(url)
        if looks_prepared:
            load_manifest(url)
        dead = contents(own) if looks_prepared else {}
        again = prepare(job(own))
        end = contents(own)
        told.append(
            {
                "looks_prepared": looks_prepared,
                "was_right": all(dead[name] == digest for name, digest in whole.items()) if looks_prepared else None,
                "ends_right": again is not None and end[MANIFEST] == whole[MANIFEST] and whole.items() <= end.items(),
                "left": sorted(end.keys() - whole.keys()),
            }
        )
        if not was_killed:
            break
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
