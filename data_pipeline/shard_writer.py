"""How one shard is written: images encoded in parallel, framed as TFRecords, streamed to the store, its note last."""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import numpy as np

from conf.schema import BadFile, DataSpec
from data_pipeline.encoding import BadImage, Encoded, encode_image
from data_pipeline.manifest import ImageSizes, Shard
from data_pipeline.records import HEADER_BYTES, Record, encode_parts, frame_parts
from data_pipeline.shards import ShardNote, ShardPlan, put_note
from data_pipeline.sources import Example
from storage.data_dir import index_name, keys_name, labels_name
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
        self.contents: list[str] = []
        self.file_marks: list[str] = []
        self.skipped: dict[str, str] = {}
        self._sizes: list[tuple[int, int, int]] = []
        self._num_bytes = 0

    def chunks(self, encoded: Iterator[tuple[Example, Encoded | str]], on_bad_file: BadFile) -> Iterator[bytes]:
        """The shard's bytes. BadImages at the end, when bad files are not to be left out: then it is not stored."""
        waiting = b""  # small pieces are written together with what follows them
        for example, image in encoded:
            if isinstance(image, str):
                self.skipped[example.key] = image
                continue
            record = Record(
                image.data, image.format, image.height, image.width, example.label, example.key, example.weight
            )
            head, before, body, after, crc = frame_parts(encode_parts(record))
            self._note(example, image, len(before) + len(body) + len(after))
            yield waiting + head + before
            yield body
            waiting = after + crc
        if self.skipped and on_bad_file is BadFile.stop:
            raise BadImages(self.skipped)
        if waiting:
            yield waiting

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

    def _note(self, example: Example, image: Encoded, num_bytes: int) -> None:
        self.offsets += _PAIR.pack(self._num_bytes + HEADER_BYTES, num_bytes)
        self._num_bytes += HEADER_BYTES + num_bytes + 4
        self.class_counts[example.label] += 1
        self.labels.append(example.label)
        self.keys.append(example.key)
        mark = image.file_mark if image.is_file else content_mark(image.data)
        self.contents.append(f"{mark:08x}{len(image.data) & 0xFFFFFFFF:08x}")
        self.file_marks.append(f"{image.file_mark or 0:08x}")
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
    stored = files.put_chunks(plan.name, chunks)
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
    contents, file_marks = "".join(shard.contents), "".join(shard.file_marks)
    found = (shard.image_sizes(), contents, file_marks, shard.sides(), shard.skipped)
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
