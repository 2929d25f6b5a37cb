"""One shard: its part of the plan, and how it is written.

Beside each shard lies, until the manifest is written, a note of what is in it. A shard with its note is finished:
a preparation that was killed goes on behind it, and preparations that share the work learn from it what the others did.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conf.schema import BadFile, DataSpec
from data_pipeline.encoding import BadImage, Encoded, encode_image
from data_pipeline.manifest import ImageSizes, Shard
from data_pipeline.records import HEADER_BYTES, Record, encode, frame
from data_pipeline.sources import Example
from storage.data_dir import index_name, shard_name
from storage.store import NotStored, Store

_EXAMPLES_PER_TASK = 32
_ESTIMATED_BYTES = 1024  # of an image whose size cannot be known before it is drawn


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one shard."""

    split: str
    name: str
    examples: list[Example]


@dataclass(frozen=True)
class ShardNote:
    """What is in a finished shard. `hashes` are of the stored images, in order, to find duplicates."""

    plan: str
    shard: Shard
    split: str
    images: ImageSizes | None
    keys: list[str]
    hashes: list[str]
    skipped: dict[str, str] = field(default_factory=dict)  # key of a bad file -> what is wrong with it


class BadImages(Exception):
    """Some files cannot be read as images: key -> why."""

    def __init__(self, reasons: dict[str, str]):
        super().__init__(f"{len(reasons)} bad files")
        self.reasons = reasons


def plan_shards(splits: dict[str, list[Example]], data: DataSpec) -> list[ShardPlan]:
    """The shards of every split, balanced to within one example."""
    return [plan for split, examples in splits.items() for plan in _plan_split(split, examples, data)]


def _plan_split(split: str, examples: list[Example], data: DataSpec) -> Iterator[ShardPlan]:
    wanted = data.num_shards or -(-sum(_size(example) for example in examples) // data.shard_bytes)
    count = max(1, min(wanted, len(examples)))
    for number in range(count):
        part = examples[number * len(examples) // count : (number + 1) * len(examples) // count]
        yield ShardPlan(split, shard_name(split, number, count), part)


def _size(example: Example) -> int:
    image = example.image
    if isinstance(image, Path):
        return image.stat().st_size if image.exists() else 0
    if isinstance(image, bytes):
        return len(image)
    return _ESTIMATED_BYTES if callable(image) else image.nbytes


def finished_note(store: Store, plan: ShardPlan, digest: str) -> ShardNote | None:
    """The note of the shard, when it was written by this very plan."""
    try:
        stored: dict[str, Any] = json.loads(store.get(note_name(plan.name)))
        shard, images = Shard(**stored.pop("shard")), stored.pop("images")
        note = ShardNote(shard=shard, images=ImageSizes(**images) if images else None, **stored)
    except (NotStored, ValueError, KeyError, TypeError):
        return None
    whole = note.plan == _fingerprint(plan, digest) and store.exists(plan.name) and store.exists(index_name(plan.name))
    return note if whole else None


def write_shard(
    store: Store,
    plan: ShardPlan,
    data: DataSpec,
    num_classes: int,
    digest: str,
    pool: Executor,
    advance: Callable[[int], None],
) -> ShardNote:
    """Encode, frame and store the shard and its index, then its note."""
    counts, offsets = [0] * num_classes, bytearray()
    keys, hashes, skipped, images = [], [], {}, None
    with TemporaryDirectory(prefix="convoy-") as folder:
        path = Path(folder, "shard")
        with path.open("wb", buffering=1 << 20) as file:
            for example, encoded in _encoded(plan.examples, data.max_side, pool, advance):
                if isinstance(encoded, str):
                    skipped[example.key] = encoded
                    continue
                serialized = encode(_record(example, encoded))
                offsets += struct.pack("<QQ", file.tell() + HEADER_BYTES, len(serialized))
                file.write(frame(serialized))
                counts[example.label] += 1
                keys.append(example.key)
                hashes.append(hashlib.blake2b(encoded.data, digest_size=8).hexdigest())
                images = _widened(images, encoded)
        if skipped and data.on_bad_file is BadFile.stop:
            raise BadImages(skipped)
        stored = store.put_file(plan.name, path)
        path.write_bytes(offsets)
        index = store.put_file(index_name(plan.name), path)
    shard = Shard(plan.name, len(keys), stored.size, stored.crc32c or 0, index.crc32c or 0, counts)
    note = ShardNote(_fingerprint(plan, digest), shard, plan.split, images, keys, hashes, skipped)
    store.put(note_name(plan.name), json.dumps(asdict(note)).encode())
    return note


def note_name(shard: str) -> str:
    """The note beside a shard."""
    return f"{shard}.note.json"


def _fingerprint(plan: ShardPlan, digest: str) -> str:
    """Changes with everything that the shard is made of, as far as it is known before reading it."""
    listing = json.dumps([[example.key, example.label, _size(example), example.weight] for example in plan.examples])
    return hashlib.sha256(f"{digest}\n{listing}".encode()).hexdigest()


def _encoded(
    examples: list[Example],
    max_side: int | None,
    pool: Executor,
    advance: Callable[[int], None],
) -> Iterator[tuple[Example, Encoded | str]]:
    """Each example with its stored image, or with the reason why there is none, in order."""
    tasks = [examples[at : at + _EXAMPLES_PER_TASK] for at in range(0, len(examples), _EXAMPLES_PER_TASK)]
    encoded = pool.map(lambda task: [_try(example, max_side) for example in task], tasks)
    for task, results in zip(tasks, encoded, strict=True):
        yield from zip(task, results, strict=True)
        advance(len(task))


def _try(example: Example, max_side: int | None) -> Encoded | str:
    try:
        return encode_image(example, max_side)
    except BadImage as error:
        return str(error)


def _record(example: Example, encoded: Encoded) -> Record:
    return Record(
        encoded.data, encoded.format, encoded.height, encoded.width, example.label, example.key, example.weight
    )


def _widened(sizes: ImageSizes | None, image: Encoded) -> ImageSizes:
    height, width, channels = image.height, image.width, image.channels
    if sizes is None:
        return ImageSizes(height, height, width, width, channels, channels)
    return ImageSizes(
        min(sizes.min_height, height),
        max(sizes.max_height, height),
        min(sizes.min_width, width),
        max(sizes.max_width, width),
        min(sizes.min_channels, channels),
        max(sizes.max_channels, channels),
    )
