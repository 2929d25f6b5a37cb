"""How one shard is written: images encoded in parallel, framed as TFRecords, streamed to the store, its note last."""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import google_crc32c
import numpy as np

from conf.schema import BadFile, DataSpec
from data_pipeline.encoding import BadImage, Encoded, encode_image
from data_pipeline.manifest import ImageSizes, Shard
from data_pipeline.records import HEADER_BYTES, Record, encode_parts, frame_parts
from data_pipeline.shards import ShardNote, ShardPlan, put_note
from data_pipeline.sources import Example
from storage.data_dir import index_name, keys_name, labels_name
from storage.joined_crc import joined_crc
from storage.source_files import content_mark
from storage.store import Group, Store

_EXAMPLES_PER_TASK = 32
_PAIR = struct.Struct("<QQ")


class BadImages(Exception):
    """Some files cannot be read as images: key -> why."""

    def __init__(self, reasons: dict[str, str]):
        super().__init__(f"{len(reasons)} bad files")
        self.reasons = reasons


class _Shard:
    """The records of one shard on their way to the store, and what is learnt of them meanwhile."""

    def __init__(self, plan: ShardPlan, num_classes: int):
        self.plan = plan
        self.class_counts = [0] * num_classes
        self.offsets = bytearray()
        self.labels: list[int] = []
        self.keys: list[str] = []
        self._contents: list[tuple[int, int]] = []  # mark and length of each stored image
        self._file_marks: list[int] = []
        self.skipped: dict[str, str] = {}
        self._sizes: list[tuple[int, int, int]] = []
        self._num_bytes = 0
        self._crcs: list[int] = []  # of the shard piece by piece, and how long each piece is
        self._lengths: list[int] = []

    def chunks(self, encoded: Iterator[tuple[Example, Encoded | str]], on_bad_file: BadFile) -> Iterator[bytes]:
        """The shard's bytes. BadImages at the end, when bad files are not to be left out: then it is not stored."""
        after = trailer = b""  # small pieces are written together with what follows them
        for example, image in encoded:
            if isinstance(image, str):
                self.skipped[example.key] = image
                continue
            record = Record(
                image.data, image.format, image.height, image.width, example.label, example.key, example.weight
            )
            parts = encode_parts(record)
            frame = frame_parts(parts)
            self._note(example, image, frame.num_bytes)
            between = trailer + frame.header
            self._crcs += google_crc32c.value(between), frame.crc32c
            self._lengths += len(between), frame.num_bytes
            yield b"".join((after, between, parts[0]))
            yield parts[1]
            after, trailer = parts[2], frame.trailer
        if self.skipped and on_bad_file is BadFile.stop:
            raise BadImages(self.skipped)
        if trailer:
            self._crcs.append(google_crc32c.value(trailer))
            self._lengths.append(len(trailer))
            yield after + trailer

    def crc32c(self) -> int:
        """The checksum of all chunks, out of those that every record has anyway."""
        return joined_crc(self._crcs, self._lengths)

    def image_sizes(self) -> ImageSizes | None:
        """The smallest and largest of its images; None when there is none."""
        if not self._sizes:
            return None
        sizes = np.array(self._sizes)
        (height, width, channels), (most_height, most_width, most_channels) = (
            sizes.min(0).tolist(),
            sizes.max(0).tolist(),
        )
        return ImageSizes(height, most_height, width, most_width, channels, most_channels)

    def sides(self) -> dict[str, int]:
        """How many images have which longer side."""
        counts = Counter(max(height, width) for height, width, _ in self._sizes)
        return {str(side): count for side, count in sorted(counts.items())}

    def marks(self) -> tuple[str, str]:
        """What the note calls `contents` and `file_marks`."""
        contents, files = (np.array(each, ">u4").tobytes().hex() for each in (self._contents, self._file_marks))
        return contents, files

    def _note(self, example: Example, image: Encoded, num_bytes: int) -> None:
        self.offsets += _PAIR.pack(self._num_bytes + HEADER_BYTES, num_bytes)
        self._num_bytes += HEADER_BYTES + num_bytes + 4
        self.class_counts[example.label] += 1
        self.labels.append(example.label)
        self.keys.append(example.key)
        known = image.file_mark if image.is_file else None
        mark = content_mark(image.data) if known is None else known
        self._contents.append((mark, len(image.data) & 0xFFFFFFFF))
        self._file_marks.append(image.file_mark or 0)
        self._sizes.append((image.height, image.width, image.channels))


def write_shard(
    store: Store,
    plan: ShardPlan,
    data: DataSpec,
    num_classes: int,
    pool: Executor | None,
    advance: Callable[[int], None],
) -> ShardNote:
    """Encode, frame and store the shard and what lies beside it, then its note."""
    shard = _Shard(plan, num_classes)
    encoded = _encoded(plan.examples, data, pool, advance)
    with store.together() as files:
        return _write_all(files, plan, shard, shard.chunks(encoded, data.on_bad_file))


def _write_all(files: Group, plan: ShardPlan, shard: _Shard, chunks: Iterator[bytes]) -> ShardNote:
    stored = files.put_chunks(plan.name, chunks, shard.crc32c)
    keys = "".join(f"{json.dumps(key)}\n" for key in shard.keys).encode()
    index = files.put_buffers(index_name(plan.name), [bytes(shard.offsets)])
    labels = files.put_buffers(labels_name(plan.name), [np.array(shard.labels, "<i4").tobytes()])
    named = files.put_buffers(keys_name(plan.name), [keys])
    entry = Shard(
        name=plan.name,
        num_examples=len(shard.keys),
        num_bytes=stored.size,
        crc32c=stored.crc32c or 0,
        index_crc32c=index.crc32c or 0,
        class_counts=shard.class_counts,
        labels_crc32c=labels.crc32c,
        keys_crc32c=named.crc32c,
    )
    found = (shard.image_sizes(), *shard.marks(), shard.sides(), shard.skipped)
    note = ShardNote(plan.identity, entry, plan.split, *found)
    put_note(files, note)
    return note


def _encoded(
    examples: list[Example], data: DataSpec, pool: Executor | None, advance: Callable[[int], None]
) -> Iterator[tuple[Example, Encoded | str]]:
    """Each example with its stored image, or with the reason why there is none, in order."""
    tasks = [examples[at : at + _EXAMPLES_PER_TASK] for at in range(0, len(examples), _EXAMPLES_PER_TASK)]
    encoded = pool.map(lambda task: [_try(example, data) for example in task], tasks) if pool else None
    for task in tasks:
        # Alone, one image after the other: what each needs is still in the processor's cache from the one before.
        results = next(encoded) if encoded else (_try(example, data) for example in task)
        yield from zip(task, results, strict=True)
        advance(len(task))


def _try(example: Example, data: DataSpec) -> Encoded | str:
    try:
        return encode_image(example, data.max_side, data.encoding, data.verify)
    except BadImage as error:
        return str(error)
