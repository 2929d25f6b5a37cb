"""What goes into each shard, and the note that a finished one leaves.

Beside each shard lies, until the manifest is written, a note of what is in it. A shard with its note is finished:
a preparation that was killed goes on behind it, and preparations that share the work learn from it what the others did.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from conf.schema import DataSpec, Encoding
from data_pipeline.manifest import ImageSizes, Shard
from data_pipeline.sources import Example
from storage.data_dir import index_name, keys_name, labels_name, shard_name
from storage.source_files import file_state
from storage.store import Group, NotStored, Store

_DECODED = 8  # times the size of a file: a photograph as its pixels
_ESTIMATED_BYTES = 1024  # of an image whose size cannot be known before it is drawn
#: A split has at least this many shards, so that as many workers or cores have one each ...
_LEAST_SHARDS = 16
#: ... where each of them is worth a file of its own.
_LEAST_BYTES = 4 << 20


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one shard."""

    split: str
    name: str
    examples: list[Example]
    sizes: list[int]  # of its images in bytes before they are encoded, as far as they are known
    digest: str  # of the data as they were asked for

    @cached_property
    def num_bytes(self) -> int:
        """The size of its images before they are encoded."""
        return sum(self.sizes)

    @cached_property
    def identity(self) -> str:
        """It changes with everything that the shard is made of, as far as that is known before reading it."""
        keys, labels, weights = ([getattr(each, name) for each in self.examples] for name in ("key", "label", "weight"))
        columns = json.dumps([keys, labels, self.sizes, weights])
        return hashlib.sha256(f"{self.digest}\n{columns}".encode()).hexdigest()


@dataclass(frozen=True)
class ShardNote:
    """What is in a finished shard."""

    plan: str
    shard: Shard
    split: str
    images: ImageSizes | None
    contents: str  # of each stored image, in order: mark and length, 16 hexadecimal digits; finds candidates alone
    file_marks: str  # of the file that each came from: 8 hexadecimal digits
    sides: dict[str, int]  # longer side in pixels -> how many images
    skipped: dict[str, str] = field(default_factory=dict)  # key of a bad file -> what is wrong with it


def plan_shards(
    splits: dict[str, list[Example]],
    data: DataSpec,
    digest: str,
    num_workers: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> list[ShardPlan]:
    """The shards of every split, balanced to within one example.

    Their number is `data.num_shards`, or follows from size: one for each `data.shard_bytes`, and not fewer than 16, or
    than there are workers, as long as each has 4 MiB. `sizes` are of files that were looked at already, by path.
    """
    size = partial(image_bytes, sizes or {})
    return [
        plan
        for split, examples in splits.items()
        for plan in _plan_split(split, examples, data, digest, num_workers, size)
    ]


def _plan_split(
    split: str, examples: list[Example], data: DataSpec, digest: str, num_workers: int, size: Callable[[Example], int]
) -> Iterator[ShardPlan]:
    sizes = [size(example) for example in examples]
    count = data.num_shards or _by_size(_stored_bytes(sizes, data), data.shard_bytes, num_workers)
    count = max(1, min(count, len(examples)))
    for number in range(count):
        part = slice(number * len(examples) // count, (number + 1) * len(examples) // count)
        yield ShardPlan(split, shard_name(split, number, count), examples[part], sizes[part], digest)


def _stored_bytes(sizes: list[int], data: DataSpec) -> int:
    """What images of these sizes take once they are stored, roughly where they are decoded."""
    if data.encoding is Encoding.files:
        return sum(sizes)
    largest = 3 * data.max_side**2 if data.max_side else math.inf
    return int(sum(min(_DECODED * size, largest) for size in sizes))


def _by_size(num_bytes: int, shard_bytes: int, num_workers: int) -> int:
    least = min(max(_LEAST_SHARDS, num_workers), num_bytes // min(_LEAST_BYTES, shard_bytes))
    return max(-(-num_bytes // shard_bytes), least)


def image_bytes(known: Mapping[str, int], example: Example) -> int:
    """The size of an example's image before it is encoded; an estimate where it is yet to be drawn."""
    image = example.image
    if isinstance(image, str) and image in known:
        return known[image]
    if isinstance(image, (str, Path)):
        state = file_state(image)
        return state.num_bytes if state else 0
    if isinstance(image, bytes):
        return len(image)
    return _ESTIMATED_BYTES if callable(image) else image.nbytes


def finished_note(store: Store, plan: ShardPlan) -> ShardNote | None:
    """The note of the shard, when it was written by this very plan and what it tells of is there."""
    try:
        stored: dict[str, Any] = json.loads(store.get(note_name(plan.name)))
        shard, images = Shard(**stored.pop("shard")), stored.pop("images")
        note = ShardNote(shard=shard, images=ImageSizes(**images) if images else None, **stored)
    except (NotStored, ValueError, KeyError, TypeError):
        return None
    whole = note.plan == plan.identity and all(store.exists(name) for name in file_names(plan.name))
    return note if whole else None


def put_note(files: Group, note: ShardNote) -> None:
    """Say that the shard is finished, behind all that it tells of."""
    files.put(note_name(note.shard.name), json.dumps(asdict(note)).encode())


def file_names(shard: str) -> list[str]:
    """The shard and what lies beside it for good."""
    return [shard, index_name(shard), labels_name(shard), keys_name(shard)]


def note_name(shard: str) -> str:
    """The note beside a shard."""
    return f"{shard}.note.json"
