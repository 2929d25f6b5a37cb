"""Any source into verified TFRecords: `python -m data_pipeline.prepare --job URL [--part I --parts N --count C]`.

Shards first, then their notes, then the manifest, only if it is absent: a preparation that is killed leaves
nothing that looks prepared, and the same command goes on where it stopped. The cores of a host share its shards; hosts
that share the work (`--parts`) each write every N-th, and whoever finds all of them finished writes the manifest.
Never imports TensorFlow.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conf.data_url import PREPARED, data_digest, data_url, local_source, source_changed
from conf.errors import BadSpec, Problem
from conf.exit_codes import BAD_SPEC, DONE, FAILED
from conf.files import load_job
from conf.schema import DataSpec, JobSpec
from data_pipeline.allocator import keep_freed_memory
from data_pipeline.finish import finish
from data_pipeline.listing import Listing
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.parts import PartFailed, share
from data_pipeline.progress import Progress, send
from data_pipeline.report import in_words
from data_pipeline.shard_writer import BadImages, write_shard
from data_pipeline.shards import ShardPlan, finished_note, plan_shards
from data_pipeline.source_list import SourceList
from data_pipeline.sources import Example, Source, open_source, reads_no_file
from data_pipeline.splits import split_examples
from storage.data_dir import REPORT, is_prepared
from storage.source_files import changes
from storage.store import Store, StoreError, open_store

_SHOWN = 10
#: What is worth a process of its own: so many examples, or so many bytes.
_EXAMPLES_A_PROCESS = 1000
_BYTES_A_PROCESS = 16 << 20
_log = logging.getLogger(__name__)


def prepare(job: JobSpec, part: int = 0, parts: int = 1, count: int = 1, processes: int = 1) -> Manifest | None:
    """Write the prepared set of `job` unless it is there. None when other parts have not finished theirs yet.

    Of `parts` equal shares of the shards this does `count` from `part` on, in as many `processes` as are worth it.
    """
    url, digest = data_url(job), data_digest(job.data, job.seed)
    if is_prepared(url) or job.data.name == PREPARED:
        return _prepared_before(url, job.data, digest)
    with _no_garbage():
        path = local_source(job.data)
        files = Listing(path) if path else None
        source, splits = _find(job, files, processes)
        plans = plan_shards(splits, job.data, digest, job.cluster.workers, files.sizes() if files else None)
        store = open_store(url)
        store.sweep()  # what a killed preparation was writing, before the disk is asked for more
        own = [plan for number, plan in enumerate(plans) if part <= number % parts < part + count]
        listed = SourceList(path, files, source, plans) if path and files else None
    try:
        _write(store, own, job.data, len(source.classes), processes, listed)
        return finish(store, plans, source, listed, job, digest)
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """What is made in this block is not looked through for garbage, nor, at its end, is all that there is by then.

    Millions of examples would be looked through as they are listed, and copied by processes that did it later.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def _prepared_before(url: str, data: DataSpec, digest: str) -> Manifest:
    manifest = load_manifest(url)
    if data.name == PREPARED:
        return manifest
    if manifest.digest != digest:
        law = f"another set is prepared there (data={manifest.name}, digest {manifest.digest}, not {digest})"
        raise BadSpec.of("data.out", url, law, f"choose another, or read that set: data=tfrecord data.path={url}")
    source = local_source(data)
    changed = changes(url, source) if source else None
    if changed:
        raise BadSpec([source_changed(data, url, changed)])
    return manifest


def _find(job: JobSpec, files: Listing | None, processes: int) -> tuple[Source, dict[str, list[Example]]]:
    """The source and its splits; each of `files` is looked at before it is read: what changes then is noticed later."""
    found: list[tuple[Source, dict[str, list[Example]]]] = []

    def find() -> None:
        source = open_source(job.data, job.seed)
        _check(source, job.data)
        found.append((source, split_examples(source, job.data.split, job.seed, job.data.examples_per_class)))

    if files is not None and reads_no_file(job.data):
        files.look(processes, explain, find)
    else:
        if files is not None:
            files.look(processes, explain)
        find()
    return found[0]


def _check(source: Source, data: DataSpec) -> None:
    """What can be known to be wrong before a single image is read."""
    if len(source.classes) < 2:
        law = f"there is a single class, {source.classes[0]}" if source.classes else "there is no class"
        raise BadSpec.of("data.path", data.path, law, "a classifier needs two or more: one folder or label each")
    trained = {example.label for name in ("all", "train") for example in source.splits.get(name, ())}
    if not trained:
        raise BadSpec.of("data.path", data.path, "there are no training examples", "give it a train split")
    for name, examples in source.splits.items():
        for example in examples:
            if not 0 <= example.label < len(source.classes):
                law = f"example {example.key} has label {example.label}, there are {len(source.classes)} classes"
                raise BadSpec.of("data.path", data.path, law, "labels count from 0")
            if example.label not in trained:
                law = f"class {source.classes[example.label]} is in {name} but has no training example"
                raise BadSpec.of("data.path", data.path, law, "add some to train, or remove the class")


def _write(
    store: Store,
    plans: list[ShardPlan],
    data: DataSpec,
    num_classes: int,
    processes: int,
    listed: SourceList | None,
) -> None:
    progress = Progress(sum(len(plan.examples) for plan in plans))
    todo = []
    for plan in plans:
        if finished_note(store, plan):
            progress.advance(len(plan.examples))
        else:
            todo.append(plan)
    cores = len(os.sched_getaffinity(0))
    processes = min(processes, len(todo), max(1, _worth(todo)))
    if processes > 1:
        url, threads = store.url, cores // processes

        def work(number: int, advance: Callable[[int], None]) -> None:
            _write_shards(open_store(url), [todo[number]], data, num_classes, threads, advance)

        share(range(len(todo)), processes, work, progress, explain, listed.make_ready if listed else lambda: None)
    else:
        _write_shards(store, todo, data, num_classes, cores, progress.advance)


def _worth(plans: Sequence[ShardPlan]) -> int:
    """How many processes the work is enough for."""
    num_examples, num_bytes = sum(len(plan.examples) for plan in plans), sum(plan.num_bytes for plan in plans)
    return max(num_examples // _EXAMPLES_A_PROCESS, num_bytes // _BYTES_A_PROCESS)


def _write_shards(
    store: Store,
    plans: Sequence[ShardPlan],
    data: DataSpec,
    num_classes: int,
    threads: int,
    advance: Callable[[int], None],
) -> None:
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    try:
        for plan in plans:
            write_shard(store, plan, data, num_classes, pool, advance)
    except BadImages as error:
        raise _bad_files(error.reasons) from error
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _bad_files(reasons: dict[str, str]) -> BadSpec:
    cure = "mend or remove it, or leave such files out with data.on_bad_file=skip"
    shown = sorted(reasons.items())[:_SHOWN]
    return BadSpec(Problem("data.path", key, f"cannot be read as an image: {reason}", cure) for key, reason in shown)


def _summary(manifest: Manifest) -> dict[str, Any]:
    examples = {name: split.num_examples for name, split in manifest.splits.items()}
    shards = sum(len(split.shards) for split in manifest.splits.values())
    return {"url": manifest.url, "examples": examples, "num_shards": shards, "num_skipped": manifest.num_skipped}


def _in_words(manifest: Manifest) -> list[str]:
    try:
        return in_words(json.loads(open_store(manifest.url).get(REPORT)))
    except (StoreError, ValueError, KeyError):  # of an older version, or removed
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data of the job that is described at a URL; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.prepare", description=prepare.__doc__)
    parser.add_argument("--job", required=True, metavar="URL", help="the job.yaml that says which data")
    parser.add_argument("--part", type=int, default=0, help="which share of the shards to write")
    parser.add_argument("--parts", type=int, default=1, help="among how many shares the shards are divided")
    parser.add_argument("--count", type=int, default=1, help="how many shares this host writes, from --part on")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if not 0 <= asked.part < asked.part + asked.count <= asked.parts:
        parser.error(f"--part {asked.part} --count {asked.count}: parts are numbered 0 to {asked.parts - 1}")
    keep_freed_memory()
    folder, _, name = asked.job.rpartition("/")
    try:
        job = load_job(open_store(folder or ".").get(name).decode(), asked.job)
        cores = len(os.sched_getaffinity(0))
        manifest = prepare(job, asked.part, asked.parts, asked.count, processes=cores)
    except (BadSpec, StoreError, OSError, PartFailed) as error:
        return _failed(explain(error))
    if manifest is not None:
        words = _in_words(manifest)
        send({"kind": "event", "event": "prepared", "details": _summary(manifest) | {"words": words}})
        _log.info("prepared %s\n%s", _summary(manifest), "\n".join(words))
    return DONE


def explain(error: Exception) -> dict[str, Any]:
    """The message of what ends a preparation."""
    if isinstance(error, PartFailed):
        return error.message
    kind = {BadSpec: "bad_spec", StoreError: "infrastructure", OSError: "infrastructure"}
    known = next((name for type_, name in kind.items() if isinstance(error, type_)), None)
    if known is None:
        _log.error("a process that prepares failed", exc_info=error)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return {"kind": "error", "error_kind": known or "user", "message": message}


def _failed(message: dict[str, Any]) -> int:
    send(message)
    _log.error("%s", message["message"])
    return BAD_SPEC if message["error_kind"] == "bad_spec" else FAILED


if __name__ == "__main__":
    sys.exit(main())
