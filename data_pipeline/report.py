"""What a person should know about prepared data before training on it: `prepare_report.json`, and in plain words."""

import hashlib
import json
import struct
from collections import Counter
from typing import Any

import numpy as np

from data_pipeline.manifest import Manifest
from data_pipeline.records import CorruptRecord, decode
from data_pipeline.shards import ShardNote
from storage.data_dir import index_name, keys_name
from storage.store import Store

_SHOWN = 100
_NAMED = 5
_IMBALANCE = 10.0
_PAIR = struct.Struct("<QQ")
#: Upper ends of the size histogram, in pixels of the longer side.
_SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def report(store: Store, manifest: Manifest, notes: list[ShardNote]) -> dict[str, Any]:
    """What goes into prepare_report.json. `warnings` are for the screen too."""
    skipped = {key: reason for note in notes for key, reason in sorted(note.skipped.items())}
    leaks = _duplicates_across_splits(store, notes)
    counts = _in_training(manifest)
    (largest, most), (smallest, least) = counts.most_common()[0], counts.most_common()[-1]
    sides: Counter[int] = sum((Counter({int(side): n for side, n in note.sides.items()}) for note in notes), Counter())
    return {
        "examples": {name: split.num_examples for name, split in manifest.splits.items()},
        "classes": _classes(manifest),
        "imbalance": {
            "largest": {"name": largest, "examples": most},
            "smallest": {"name": smallest, "examples": least},
            "ratio": round(most / least, 2) if least else None,
        },
        "image_sizes": vars(manifest.images) | {"uniform": manifest.images.uniform, "histogram": _histogram(sides)},
        "skipped": {"count": len(skipped), "files": skipped},
        "duplicates_across_splits": {"count": len(leaks), "first": leaks[:_SHOWN]},
        "warnings": _warnings(counts, leaks, skipped),
    }


def to_json(content: dict[str, Any]) -> bytes:
    """The report as it is stored."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def in_words(content: dict[str, Any]) -> list[str]:
    """The report for a person who prepares, a line each: sizes, balance, then what is to be looked at."""
    counts = sorted(content["examples"].items(), key=lambda item: -item[1])
    examples = ", ".join(f"{name} {count:,}" for name, count in counts)
    largest, smallest = content["imbalance"]["largest"], content["imbalance"]["smallest"]
    lines = [f"examples       {examples}", f"classes        {_balance(len(content['classes']), largest, smallest)}"]
    sides = ", ".join(f"{range_} px: {count:,}" for range_, count in content["image_sizes"]["histogram"].items())
    lines.append(f"longer side    {sides}")
    return lines + [f"look at this:  {warning}" for warning in content["warnings"]]


def _balance(num_classes: int, largest: dict[str, Any], smallest: dict[str, Any]) -> str:
    if largest["examples"] == smallest["examples"]:
        return f"{num_classes}, each with {largest['examples']:,} training examples"
    most, least = f"{largest['name']} {largest['examples']:,}", f"{smallest['name']} {smallest['examples']:,}"
    return f"{num_classes}; training examples: most of {most}, fewest of {least}"


def _classes(manifest: Manifest) -> dict[str, dict[str, int]]:
    return {
        name: {split: counts.class_counts[label] for split, counts in manifest.splits.items()}
        for label, name in enumerate(manifest.classes)
    }


def _in_training(manifest: Manifest) -> Counter[str]:
    return Counter(dict(zip(manifest.classes, manifest.splits["train"].class_counts, strict=True)))


def _histogram(sides: Counter[int]) -> dict[str, int]:
    """How many images have their longer side in each range, such as `257-512`."""
    found: dict[str, int] = {}
    for low, high in zip((0, *_SIDES), (*_SIDES, None), strict=True):
        count = sum(n for side, n in sides.items() if side > low and (high is None or side <= high))
        if count:
            found[f"{low + 1}-{high}" if high else f"over {low}"] = count
    return found


def _duplicates_across_splits(store: Store, notes: list[ShardNote]) -> list[dict[str, list[str]]]:
    """Images that are in more than one split, byte for byte: split -> keys.

    Checksum and length find the candidates; their whole contents are then read and compared.
    """
    splits = sorted({note.split for note in notes})
    if len(splits) < 2:
        return []
    contents = [np.frombuffer(bytes.fromhex(note.contents), ">u8") for note in notes]
    where = np.concatenate(
        [np.full(len(own), splits.index(note.split)) for note, own in zip(notes, contents, strict=True)]
    )
    flat = np.concatenate(contents)
    order = np.argsort(flat, kind="stable")
    same = np.concatenate([[0], np.cumsum(np.diff(flat[order]) != 0)]) if len(flat) else np.empty(0, np.int64)
    pairs = np.unique(np.stack([same, where[order]]), axis=1)[0]
    groups, num_splits = np.unique(pairs, return_counts=True)
    candidates = order[np.isin(same, groups[num_splits > 1])]
    starts = np.cumsum([0, *(len(own) for own in contents)])
    found: dict[str, dict[str, list[str]]] = {}
    keys: dict[int, list[str]] = {}
    for place in np.sort(candidates).tolist():
        number = int(np.searchsorted(starts, place, side="right")) - 1
        image = hashlib.sha256(_stored_image(store, notes[number], place - int(starts[number]))).hexdigest()
        if number not in keys:
            keys[number] = stored_keys(store, notes[number].shard.name)
        own = found.setdefault(image, {}).setdefault(notes[number].split, [])
        own.append(keys[number][place - int(starts[number])])
    return [leak for leak in found.values() if len(leak) > 1]


def stored_keys(store: Store, shard: str) -> list[str]:
    """The source's key of each record of a shard, in order."""
    return [str(json.loads(line)) for line in store.get(keys_name(shard)).splitlines()]


def _stored_image(store: Store, note: ShardNote, record: int) -> bytes:
    name = note.shard.name
    offset, length = _PAIR.unpack(store.get_range(index_name(name), record * _PAIR.size, _PAIR.size))
    try:
        return decode(store.get_range(name, offset, length)).encoded
    except ValueError as error:
        raise CorruptRecord(f"{store.url}/{name}: corrupt record {record} at byte {offset} - {error}") from error


def _warnings(counts: Counter[str], leaks: list[dict[str, list[str]]], skipped: dict[str, str]) -> list[str]:
    warnings = []
    if skipped:
        named = "; ".join(f"{key}: {reason}" for key, reason in list(skipped.items())[:_NAMED])
        more = f"; and {len(skipped) - _NAMED} more, named in the report" if len(skipped) > _NAMED else ""
        files = "1 file was" if len(skipped) == 1 else f"{len(skipped)} files were"
        warnings.append(f"{files} left out, unreadable as images ({named}{more})")
    if leaks:
        example = " = ".join(f"{keys[0]} ({split})" for split, keys in leaks[0].items())
        images = "1 image is" if len(leaks) == 1 else f"{len(leaks)} images are"
        warnings.append(f"{images} in more than one split, such as {example}: the test score will be too good")
    (largest, most), (smallest, least) = counts.most_common()[0], counts.most_common()[-1]
    if most > _IMBALANCE * least:
        warnings.append(f"training is far from balanced: {most} examples of {largest}, {least} of {smallest}")
    return warnings
