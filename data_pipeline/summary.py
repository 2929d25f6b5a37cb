"""A prepared set as a table of text: splits, classes, sizes, versions, and what its report warns of."""

import contextlib
import json
from collections.abc import Sequence

from data_pipeline.manifest import ImageSizes, Manifest
from data_pipeline.splits import TRAIN, VALIDATION
from storage.data_dir import REPORT
from storage.store import NotStored, open_store

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def summary(manifest: Manifest) -> list[str]:
    """The lines about the whole set and its splits."""
    facts = [
        ("prepared set", f"{manifest.name} in {manifest.url}"),
        ("digest", f"{manifest.digest}, seed {manifest.seed}"),
        ("images", f"{sizes(manifest.images)}, stored as {manifest.encoding}"),
        ("classes", str(manifest.num_classes)),
        ("written by", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))),
    ]
    rows = [("split", "examples", "shards", "bytes", "smallest shard", "largest shard")]
    for name in splits(manifest):
        split = manifest.splits[name]
        each = [shard.num_bytes for shard in split.shards]
        shown = (human(sum(each)), human(min(each)), human(max(each)))
        rows.append((name, f"{split.num_examples:,}", str(len(each)), *shown))
    return [*aligned(facts), "", *aligned(rows, numbers=True), *[f"warning: {text}" for text in warnings(manifest)]]


def class_table(manifest: Manifest) -> list[str]:
    """A heading, then a line a class: its examples in each split, and its share of the first split."""
    names = splits(manifest)
    first = manifest.splits[names[0]]
    rows = [("class", *names, f"of {names[0]}")]
    for label, name in enumerate(manifest.classes):
        counts = (f"{manifest.splits[split].class_counts[label]:,}" for split in names)
        rows.append((name, *counts, f"{first.class_counts[label] / max(first.num_examples, 1):.1%}"))
    return aligned(rows, numbers=True)


def splits(manifest: Manifest) -> list[str]:
    """The names of the splits, train first."""
    return sorted(manifest.splits, key=lambda name: (name != TRAIN, name != VALIDATION, name))


def warnings(manifest: Manifest) -> list[str]:
    """What the report of the preparation warns of; nothing where there is no report."""
    with contextlib.suppress(NotStored, ValueError, AttributeError):
        return [str(text) for text in json.loads(open_store(manifest.url).get(REPORT)).get("warnings", [])]
    return []


def sizes(images: ImageSizes) -> str:
    """Height x width and channels of the stored images, in words."""
    channels = {(1, 1): "grey", (3, 3): "colour"}.get((images.min_channels, images.max_channels), "grey and colour")
    if images.uniform:
        return f"{images.min_height}x{images.min_width}, {channels}"
    high, wide = f"{images.min_height} to {images.max_height}", f"{images.min_width} to {images.max_width}"
    return f"{high} high, {wide} wide, {channels}"


def human(num_bytes: int) -> str:
    """A number of bytes as a person says it."""
    size, unit = float(num_bytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{num_bytes} bytes" if not unit else f"{size:.1f} {_UNITS[unit]}"


def aligned(rows: Sequence[Sequence[str]], numbers: bool = False) -> list[str]:
    """The rows with their columns below one another; with `numbers`, all columns but the first to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        rest = [f"{cell:>{width}}" if numbers else cell for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *rest]).rstrip())
    return lines
