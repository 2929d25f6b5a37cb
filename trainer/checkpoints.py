"""Checkpoints that are whole or do not exist.

Saving writes files under names of its own, then one small manifest, only if there is none. Whoever is killed in
between leaves files that no manifest names: never in the way, and removed by the next save or `prune`.
"""

import contextlib
import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conf.errors import BadSpec
from storage.run_dir import RunDir, checkpoint_name, checkpoint_step
from trainer.checkpoint_files import (
    Broken,
    CheckpointStatus,
    checked_manifest,
    listing_of,
    remove,
    status_of,
    steps_in,
    verified_bytes,
)
from trainer.checkpoint_manifest import FileEntry, Manifest, attempt_of, file_name, manifest_name
from trainer.checkpoint_tensors import as_array, decoded, encoded, shared_out
from trainer.retention import Retention

log = logging.getLogger(__name__)

FILES_AT_ONCE = 4


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was whole, in memory. `broken` says, newest first, what was wrong with newer ones."""

    step: int
    tensors: dict[str, np.ndarray]
    state: dict[str, Any]
    broken: list[str] = field(default_factory=list)


def save(
    run_dir: RunDir,
    step: int,
    tensors: Mapping[str, Any],
    state: dict[str, Any],
    attempt: int,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the checkpoint of a step, on the disk or in the bucket when this returns.

    `metrics` are what the last evaluation gave. One process of an attempt saves. A whole checkpoint of that step is
    left as it is, a broken one is replaced.
    """
    arrays = {name: as_array(name, tensor) for name, tensor in tensors.items()}
    files = [encoded({name: arrays[name] for name in share}) for share in shared_out(arrays)]
    save_files(run_dir, step, files, state, attempt, metrics)


def save_files(
    run_dir: RunDir,
    step: int,
    files: Sequence[Sequence[bytes | memoryview]],
    state: dict[str, Any],
    attempt: int,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """The same of tensors that are encoded already: each file the buffers that it is made of."""
    if not _make_room(run_dir, step, attempt):
        log.info("%s: step %d has a whole checkpoint already", run_dir.url, step)
        return
    nonce = secrets.token_hex(8)

    def put(part: str, buffers: Sequence[bytes | memoryview]) -> FileEntry:
        name = file_name(attempt, nonce, part)
        stored = run_dir.store.put_buffers(f"{checkpoint_name(step)}/{name}", buffers)
        if stored.crc32c is None:
            raise AssertionError("put_buffers answers with a checksum")
        return FileEntry(name, stored.size, stored.crc32c)

    # The state first: it is small, and while it is listed the leftovers of this save are seen and removed.
    state_entry = put("state.json", [json.dumps(state).encode()])
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        entries = tuple(pool.map(put, (f"{index:04d}.safetensors" for index in range(len(files))), files))
    manifest = Manifest(step, attempt, nonce, state_entry, entries, dict(metrics or {}))
    _publish(run_dir, manifest)


def remember(run_dir: RunDir, step: int, metrics: Mapping[str, float]) -> None:
    """Note in the manifest of a step what its own evaluation gave, which a stop had left to do.

    The checkpoint is whole before, in between and afterwards: the manifest is replaced, and names the same files.
    """
    with contextlib.suppress(Broken):  # gone by now: then there is a newer one
        manifest = checked_manifest(run_dir, step)
        if manifest.metrics != metrics:
            run_dir.store.put(manifest_name(step), replace(manifest, metrics=dict(metrics)).dumped())


def load(run_dir: RunDir, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the state of a step, every file verified. Raises Broken, or BadSpec for a newer format."""
    manifest = checked_manifest(run_dir, step)
    tensors: dict[str, np.ndarray] = {}
    try:
        state = _object(verified_bytes(run_dir, step, manifest.state))
        for entry in manifest.tensors:
            tensors |= decoded(verified_bytes(run_dir, step, entry))
    except ValueError as error:
        raise Broken(f"{checkpoint_name(step)} cannot be read although its checksums are right: {error!r}") from error
    return tensors, state


def newest_whole(run_dir: RunDir) -> Loaded | None:
    """The newest checkpoint that is whole, or None. What is broken is named in the log and in the answer."""
    broken: list[str] = []
    for step in _newest_first(run_dir):
        try:
            return Loaded(step, *load(run_dir, step), broken)
        except Broken as error:
            if not run_dir.store.exists(manifest_name(step)):
                continue  # pruned while it was read: then there is a newer one
            log.warning("%s: %s; an older checkpoint is tried", run_dir.url, error)
            broken.append(str(error))
    return None


def newest_state(run_dir: RunDir) -> dict[str, Any] | None:
    """The state alone of the newest checkpoint whose state is whole, or None."""
    for step in _newest_first(run_dir):
        with contextlib.suppress(Broken, ValueError):
            entry = checked_manifest(run_dir, step).state
            return _object(verified_bytes(run_dir, step, entry))
    return None


def list_checkpoints(run_dir: RunDir, verify: bool = False) -> list[CheckpointStatus]:
    """Every checkpoint with a manifest, oldest first. Checksums are compared where it costs nothing, or to `verify`.

    One of a newer format is listed too, with that as its problem.
    """
    listing, found = listing_of(run_dir), []
    for step in steps_in(listing):
        try:
            found.append(status_of(run_dir, step, listing, verify))
        except BadSpec as error:
            found.append(CheckpointStatus(step, 0, None, error.problems[0].law))
    return found


def prune(
    run_dir: RunDir,
    keep: Retention,
    attempt: int = -1,
    known_whole: int | None = None,
    seen: dict[int, Manifest] | None = None,
) -> list[int]:
    """Remove all checkpoints but those to `keep`, and the leftovers of `attempt` and earlier; the steps removed.

    Never the newest whole one, whatever `keep` says, and nothing newer than that. `known_whole` is a step that
    need not be verified, because this process has just saved it. Only the process that saves gives `attempt`, and what
    it remembers of manifests (`seen`): of a thousand checkpoints that stay for ever each save would read as many.
    """
    listing = listing_of(run_dir)
    for step in {step for name in listing if (step := checkpoint_step(name)) is not None}:
        names = [name for name in listing if checkpoint_step(name) == step]
        if manifest_name(step) not in names and _are_leftovers(names, attempt):
            log.info("%s: removing what an interrupted save left in %s", run_dir.url, checkpoint_name(step))
            run_dir.store.delete_folder(checkpoint_name(step))
    steps = steps_in(listing)
    newest_first = reversed(steps)
    whole = next(
        (s for s in newest_first if s == known_whole or not status_of(run_dir, s, listing, True).problem), None
    )
    if whole is None:
        return []
    statuses = [status_of(run_dir, step, listing, False, seen) for step in steps]
    complete = {status.step: status.metrics for status in statuses if status.step == whole or not status.problem}
    kept = keep.kept(complete)
    removed = [step for step in steps if step < whole and step not in kept]
    for step in removed:
        remove(run_dir, step)
    return removed


def _object(data: memoryview) -> dict[str, Any]:
    """A JSON object; ValueError where it is none."""
    found = json.loads(bytes(data))
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__} where there should be a JSON object")
    return found


def _newest_first(run_dir: RunDir) -> Iterator[int]:
    """Steps that have a manifest, the newest first.

    Looked for anew after each: a training that goes on may meanwhile have saved a newer one and pruned this.
    """
    tried: set[int] = set()
    while left := [step for step in steps_in(listing_of(run_dir)) if step not in tried]:
        tried.add(left[-1])
        yield left[-1]


def _make_room(run_dir: RunDir, step: int, attempt: int) -> bool:
    """Clear the step's folder of a broken checkpoint and of leftovers; false if a whole checkpoint is there."""
    listing = listing_of(run_dir, step)
    if manifest_name(step) in listing:
        problem = status_of(run_dir, step, listing, verify=True).problem
        if problem is None:
            return False
        log.warning("%s: %s; it is replaced", run_dir.url, problem)
        remove(run_dir, step)
    elif _are_leftovers(listing, attempt):
        run_dir.store.delete_folder(checkpoint_name(step))
    return True


def _publish(run_dir: RunDir, manifest: Manifest) -> None:
    """Write the manifest, unless another process was faster and its checkpoint is whole.

    The other may be of an attempt that was thought dead, whose files we took for leftovers: then ours replaces it.
    """
    step, name = manifest.step, manifest_name(manifest.step)
    while not run_dir.store.put_if_absent(name, manifest.dumped()):
        problem = status_of(run_dir, step, listing_of(run_dir, step), verify=True).problem
        if problem is None:
            log.warning("%s: another process saved step %d meanwhile; its checkpoint stays", run_dir.url, step)
            for entry in manifest.files:
                run_dir.store.delete(f"{checkpoint_name(step)}/{entry.name}")
            return
        log.warning("%s: another process saved step %d meanwhile, but %s; it is replaced", run_dir.url, step, problem)
        run_dir.store.delete(name)


def _are_leftovers(names: Iterable[str], attempt: int) -> bool:
    """Whether all files are of `attempt` or earlier, so that nobody is still writing them."""
    return all(other is not None and other <= attempt for other in map(attempt_of, names))
