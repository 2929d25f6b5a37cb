"""The end of a preparation: when every shard is there, the report, the list of source files, and last the manifest."""

import logging
import platform
import zlib
from collections.abc import Iterable
from functools import reduce
from importlib.metadata import version

from conf.errors import BadSpec
from conf.schema import JobSpec
from data_pipeline.manifest import FEATURES, ImageSizes, Manifest, Split, load_manifest
from data_pipeline.report import report, to_json
from data_pipeline.shards import ShardNote, ShardPlan, file_names, finished_note, note_name
from data_pipeline.source_list import SourceList
from data_pipeline.sources import Source
from storage.data_dir import MANIFEST, REPORT, is_prepared
from storage.source_files import SOURCE_FILES
from storage.store import Store

_PACKAGES = ("numpy", "pillow", "google-crc32c")
_log = logging.getLogger(__name__)


def finish(
    store: Store, plans: list[ShardPlan], source: Source, files: SourceList | None, job: JobSpec, digest: str
) -> Manifest | None:
    """Write the manifest if every shard is finished, and remove what was only needed until then.

    `files` are those that the source consists of, if it does. None when other parts are not done yet. When another
    preparation has finished first, what that one wrote.
    """
    found = [finished_note(store, plan) for plan in plans]
    notes = [note for note in found if note is not None]
    if len(notes) < len(plans):
        return load_manifest(store.url) if is_prepared(store.url) else None
    manifest = _manifest(store.url, notes, source.classes, job, digest)
    with store.together() as group:
        group.put(REPORT, to_json(report(store, manifest, notes)))
        if files is not None:
            group.put(SOURCE_FILES, files.lines(notes))
    if not store.put_if_absent(MANIFEST, manifest.to_json()):
        _log.info("another preparation of %s finished first", store.url)
        return load_manifest(store.url)
    _clean(store, plans)
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
        encoding=job.data.encoding.name,
        features=FEATURES,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """What the bytes may depend on."""
    own = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    return own | {name: version(name) for name in _PACKAGES}


def _both(one: ImageSizes, other: ImageSizes) -> ImageSizes:
    return ImageSizes(
        min(one.min_height, other.min_height),
        max(one.max_height, other.max_height),
        min(one.min_width, other.min_width),
        max(one.max_width, other.max_width),
        min(one.min_channels, other.min_channels),
        max(one.max_channels, other.max_channels),
    )


def _clean(store: Store, plans: Iterable[ShardPlan]) -> None:
    """Remove the notes, and shards with a note that belong to an earlier preparation which planned otherwise.

    And what was being written by processes that have been killed only just now.
    """
    planned = {plan.name for plan in plans}
    ends = note_name("")
    with store.together() as group:
        for stored in list(store.list()):
            shard = stored.name.removesuffix(ends)
            if not stored.name.endswith(ends):
                continue
            for name in () if shard in planned else file_names(shard):
                group.delete(name)
            group.delete(stored.name)
    store.sweep()
