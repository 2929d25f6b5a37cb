"""The files of a checkpoint held against its manifest: sizes, checksums, what is missing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import numpy as np

from storage.run_dir import CHECKPOINTS, RunDir, checkpoint_name, checkpoint_step
from storage.store import NotStored, Stored
from trainer.checkpoint_manifest import FileEntry, Manifest, manifest_name, read_manifest

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class CheckpointStatus:
    """A checkpoint as a list shows it. `problem` is None if it is whole, as far as was looked."""

    step: int
    size: int
    attempt: int | None
    problem: str | None
    metrics: dict[str, float] = field(default_factory=dict)


class Broken(Exception):
    """A checkpoint is not whole. Names the file and what is wrong with it."""


def listing_of(run_dir: RunDir, step: int | None = None) -> dict[str, Stored]:
    """All files of a step, or of all checkpoints, by name."""
    folder = CHECKPOINTS if step is None else checkpoint_name(step)
    return {stored.name: stored for stored in run_dir.store.list(f"{folder}/")}


def steps_in(listing: Mapping[str, Stored]) -> list[int]:
    """The steps that have a manifest, oldest first."""
    steps = {step for name in listing if (step := checkpoint_step(name)) is not None}
    return sorted(step for step in steps if manifest_name(step) in listing)


def checked_manifest(run_dir: RunDir, step: int) -> Manifest:
    """The manifest of a step. Raises Broken, or BadSpec for a newer format."""
    try:
        manifest = read_manifest(run_dir, step)
    except NotStored as error:
        raise Broken(f"{manifest_name(step)} is missing") from error
    except ValueError as error:
        raise Broken(f"{manifest_name(step)} cannot be read: {error}") from error
    if manifest.step != step:
        raise Broken(f"{manifest_name(step)} is of step {manifest.step}")
    return manifest


def verified_bytes(run_dir: RunDir, step: int, entry: FileEntry) -> memoryview:
    """The bytes of a file, its size and checksum compared; mapped where it lies on this host's disk."""
    name = f"{checkpoint_name(step)}/{entry.name}"
    path = run_dir.store.local_path(name)
    try:
        if path is None:
            data = memoryview(run_dir.store.get(name))
        else:
            data = _mapped(path)
    except (NotStored, FileNotFoundError) as error:
        raise Broken(f"{name} is missing") from error
    except OSError as error:  # of this host's disk: what a far store cannot give now is no word on the file
        raise Broken(f"{name} cannot be read: {error.strerror or error}") from error
    if len(data) != entry.size:
        raise Broken(f"{name} has {len(data)} bytes, not {entry.size}")
    crc32c, view = 0, np.frombuffer(data, np.uint8)  # taken without a copy, which a memoryview is not
    for start in range(0, len(data), _CHUNK_BYTES):
        crc32c = google_crc32c.extend(crc32c, view[start : start + _CHUNK_BYTES])
    if crc32c != entry.crc32c:
        raise Broken(f"{name} has the crc32c {crc32c:08x}, not {entry.crc32c:08x}")
    return data


def _mapped(path: Path) -> memoryview:
    """The bytes of a file on this host's disk, read when they are looked at."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return memoryview(b"")
        if hasattr(os, "posix_fadvise"):  # all of it will be: it was written past the cache, and small reads are slow
            os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_WILLNEED)
        return np.memmap(file, np.uint8, "r").data


def status_of(
    run_dir: RunDir, step: int, listing: Mapping[str, Stored], verify: bool, seen: dict[int, Manifest] | None = None
) -> CheckpointStatus:
    """Compare a checkpoint's files with its manifest. BadSpec for a newer format.

    Manifests that this process has `seen` are not read again as long as all their files, whose names are of one save
    alone, are there.
    """
    known = (seen or {}).get(step)
    if known is not None and all(f"{checkpoint_name(step)}/{file.name}" in listing for file in known.files):
        manifest = known
    else:
        try:
            manifest = checked_manifest(run_dir, step)
        except Broken as error:
            return CheckpointStatus(step, 0, None, str(error))
    if seen is not None:
        seen[step] = manifest
    problem = None
    try:
        for entry in manifest.files:
            _compare(run_dir, step, entry, listing.get(f"{checkpoint_name(step)}/{entry.name}"), verify)
    except Broken as error:
        problem = str(error)
    return CheckpointStatus(step, manifest.size, manifest.attempt, problem, manifest.metrics)


def remove(run_dir: RunDir, step: int) -> None:
    """Remove a checkpoint, its manifest first: from then on it looks whole to nobody."""
    run_dir.store.delete(manifest_name(step))
    run_dir.store.delete_folder(checkpoint_name(step))


def _compare(run_dir: RunDir, step: int, entry: FileEntry, stored: Stored | None, verify: bool) -> None:
    name = f"{checkpoint_name(step)}/{entry.name}"
    if stored is None:
        raise Broken(f"{name} is missing")
    if stored.size != entry.size:
        raise Broken(f"{name} has {stored.size} bytes, not {entry.size}")
    if stored.crc32c is not None and stored.crc32c != entry.crc32c:
        raise Broken(f"{name} has the crc32c {stored.crc32c:08x}, not {entry.crc32c:08x}")
    if stored.crc32c is None and verify:
        verified_bytes(run_dir, step, entry)
