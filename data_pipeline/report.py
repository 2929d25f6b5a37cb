"""What a person should know about prepared data before training on it: `prepare_report.json`."""

import json
import logging
from collections import Counter
from typing import Any

from data_pipeline.manifest import Manifest
from data_pipeline.shards import ShardNote

_SHOWN = 100
_IMBALANCE = 10.0
_log = logging.getLogger(__name__)


def report(manifest: Manifest, notes: list[ShardNote]) -> bytes:
    """The report as JSON."""
    skipped = {key: reason for note in notes for key, reason in sorted(note.skipped.items())}
    leaks = _duplicates_across_splits(notes)
    content: dict[str, Any] = {
        "examples": {name: split.num_examples for name, split in manifest.splits.items()},
        "classes": _classes(manifest),
        "image_sizes": vars(manifest.images) | {"uniform": manifest.images.uniform},
        "skipped": {"count": len(skipped), "files": skipped},
        "duplicates_across_splits": {"count": len(leaks), "first": leaks[:_SHOWN]},
        "warnings": _warnings(manifest, len(leaks), len(skipped)),
    }
    for warning in content["warnings"]:
        _log.warning("%s", warning)
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _classes(manifest: Manifest) -> dict[str, dict[str, int]]:
    return {
        name: {split: counts.class_counts[label] for split, counts in manifest.splits.items()}
        for label, name in enumerate(manifest.classes)
    }


def _duplicates_across_splits(notes: list[ShardNote]) -> list[dict[str, list[str]]]:
    """Images that are in more than one split, byte for byte: split -> keys."""
    where: dict[str, set[str]] = {}
    for note in notes:
        for digest in note.hashes:
            where.setdefault(digest, set()).add(note.split)
    leaked = {digest for digest, splits in where.items() if len(splits) > 1}
    found: dict[str, dict[str, list[str]]] = {}
    for note in notes:
        for digest, key in zip(note.hashes, note.keys, strict=True):
            if digest in leaked:
                found.setdefault(digest, {}).setdefault(note.split, []).append(key)
    return list(found.values())


def _warnings(manifest: Manifest, num_leaks: int, num_skipped: int) -> list[str]:
    warnings = []
    if num_skipped:
        warnings.append(f"{num_skipped} files were left out because they cannot be read as images")
    if num_leaks:
        warnings.append(f"{num_leaks} images are in more than one split: the test score will be too good")
    train = manifest.splits["train"].class_counts
    counts = Counter(dict(zip(manifest.classes, train, strict=True)))
    (largest, most), (smallest, least) = counts.most_common()[0], counts.most_common()[-1]
    if most > _IMBALANCE * least:
        warnings.append(f"training is far from balanced: {most} examples of {largest}, {least} of {smallest}")
    return warnings
