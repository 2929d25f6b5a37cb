"""Any source into verified TFRecords: `python -m data_pipeline.prepare --job URL [--part I --parts N]`.

Shards first, then their notes, then the manifest, only if it is absent: a preparation that is killed leaves
nothing that looks prepared, and the same command goes on where it stopped. Preparations that share the work (`--parts`)
each write every N-th shard, and whoever finds all of them finished writes the manifest. Never imports TensorFlow.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from importlib.metadata import version

from conf.data_url import PREPARED, data_digest, data_url
from conf.errors import BadSpec, Problem
from conf.exit_codes import BAD_SPEC, DONE, FAILED
from conf.files import load_job
from conf.schema import DataSpec, JobSpec
from data_pipeline.manifest import ImageSizes, Manifest, Split, load_manifest
from data_pipeline.progress import Progress, send
from data_pipeline.report import report
from data_pipeline.shards import BadImages, ShardNote, ShardPlan, finished_note, note_name, plan_shards, write_shard
from data_pipeline.sources import Source, open_source
from data_pipeline.splits import split_examples
from storage.data_dir import MANIFEST, REPORT, is_prepared
from storage.store import Store, StoreError, open_store

_SHOWN = 10
_PACKAGES = ("numpy", "pillow", "google-crc32c")
_log = logging.getLogger(__name__)


def prepare(job: JobSpec, part: int = 0, parts: int = 1) -> Manifest | None:
    """Write the prepared set of `job` unless it is there. None when other parts have not finished theirs yet."""
    url, digest = data_url(job), data_digest(job.data, job.seed)
    if is_prepared(url) or job.data.name == PREPARED:
        return _prepared_before(url, job.data, digest)
    source = open_source(job.data, job.seed)
    _check(source, job.data)
    plans = plan_shards(split_examples(source, job.data.split, job.seed), job.data)
    store = open_store(url)
    _write_part(store, plans[part::parts], job.data, len(source.classes), digest)
    return _finish(store, plans, source.classes, job, digest)


def _prepared_before(url: str, data: DataSpec, digest: str) -> Manifest:
    manifest = load_manifest(url)
    if data.name != PREPARED and manifest.digest != digest:
        law = f"another set is prepared there (data={manifest.name}, digest {manifest.digest}, not {digest})"
        raise BadSpec.of("data.out", url, law, f"choose another, or read that set: data=tfrecord data.path={url}")
    return manifest


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


def _write_part(store: Store, plans: Sequence[ShardPlan], data: DataSpec, num_classes: int, digest: str) -> None:
    progress = Progress(sum(len(plan.examples) for plan in plans))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for plan in plans:
            if finished_note(store, plan, digest):
                progress.advance(len(plan.examples))
                continue
            try:
                write_shard(store, plan, data, num_classes, digest, pool, progress.advance)
            except BadImages as error:
                raise _bad_files(error.reasons) from error


def _bad_files(reasons: dict[str, str]) -> BadSpec:
    cure = "mend or remove it, or leave such files out with data.on_bad_file=skip"
    shown = sorted(reasons.items())[:_SHOWN]
    return BadSpec(Problem("data.path", key, f"cannot be read as an image: {reason}", cure) for key, reason in shown)


def _finish(store: Store, plans: list[ShardPlan], classes: list[str], job: JobSpec, digest: str) -> Manifest | None:
    """Write report and manifest when every shard is there, and remove the notes."""
    found = [finished_note(store, plan, digest) for plan in plans]
    notes = [note for note in found if note is not None]
    if len(notes) < len(plans):
        return load_manifest(store.url) if is_prepared(store.url) else None
    manifest = _manifest(store.url, notes, classes, job, digest)
    store.put(REPORT, report(manifest, notes))
    if not store.put_if_absent(MANIFEST, manifest.to_json()):
        _log.info("another preparation of %s finished first", store.url)
    for plan in plans:
        store.delete(note_name(plan.name))
    return manifest


def _manifest(url: str, notes: list[ShardNote], classes: list[str], job: JobSpec, digest: str) -> Manifest:
    splits = {}
    for name in dict.fromkeys(note.split for note in notes):
        shards = [note.shard for note in notes if note.split == name]
        counts = [sum(column) for column in zip(*(shard.class_counts for shard in shards), strict=True)]
        splits[name] = Split(sum(counts), counts, shards)
    if not splits["train"].num_examples:
        raise BadSpec.of("data.path", job.data.path, "no training image can be read", "data.on_bad_file=stop says why")
    sizes = [note.images for note in notes if note.images is not None]
    return Manifest(
        url=url,
        name=job.data.name,
        classes=classes,
        splits={name: split for name, split in splits.items() if split.num_examples},
        images=reduce(_both, sizes),
        seed=job.seed,
        digest=digest,
        num_skipped=sum(len(note.skipped) for note in notes),
        versions={name: version(name) for name in _PACKAGES},
    )


def _both(one: ImageSizes, other: ImageSizes) -> ImageSizes:
    return ImageSizes(
        min(one.min_height, other.min_height),
        max(one.max_height, other.max_height),
        min(one.min_width, other.min_width),
        max(one.max_width, other.max_width),
        min(one.min_channels, other.min_channels),
        max(one.max_channels, other.max_channels),
    )


def _summary(manifest: Manifest) -> dict[str, object]:
    examples = {name: split.num_examples for name, split in manifest.splits.items()}
    shards = sum(len(split.shards) for split in manifest.splits.values())
    return {"url": manifest.url, "examples": examples, "num_shards": shards, "num_skipped": manifest.num_skipped}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data of the job that is described at a URL; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.prepare", description=prepare.__doc__)
    parser.add_argument("--job", required=True, metavar="URL", help="the job.yaml that says which data")
    parser.add_argument("--part", type=int, default=0, help="which share of the shards to write")
    parser.add_argument("--parts", type=int, default=1, help="among how many preparations the shards are shared")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if not 0 <= asked.part < asked.parts:
        parser.error(f"--part {asked.part}: parts are numbered 0 to {asked.parts - 1}")
    folder, _, name = asked.job.rpartition("/")
    try:
        job = load_job(open_store(folder or ".").get(name).decode(), asked.job)
        manifest = prepare(job, asked.part, asked.parts)
    except BadSpec as error:
        return _failed("bad_spec", str(error), BAD_SPEC)
    except (StoreError, OSError) as error:
        return _failed("infrastructure", str(error), FAILED)
    if manifest is not None:
        send({"kind": "event", "event": "prepared", "details": _summary(manifest)})
        _log.info("prepared %s", _summary(manifest))
    return DONE


def _failed(kind: str, message: str, exit_code: int) -> int:
    send({"kind": "error", "error_kind": kind, "message": message})
    _log.error("%s", message)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
