"""Makes prepared sets whose checksums are right and whose contents are not."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np

from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.records import HEADER_BYTES, Record, decode, encode, frame

#: What becomes of a record: another, or an Example as somebody else serializes it.
Changes = dict[int, Callable[[Record], Record | bytes]]


def rewritten(manifest: Manifest, split: str, changes: Changes) -> Manifest:
    """The set with records of the first shard of a split exchanged, and everything that speaks of them to match."""
    folder, shard = Path(manifest.url), manifest.splits[split].shards[0]
    path = folder / shard.name
    stored, places = path.read_bytes(), np.fromfile(f"{path}.index", "<u8").reshape(-1, 2).tolist()
    data, index = bytearray(), bytearray()
    for number, (offset, length) in enumerate(places):
        record = decode(stored[offset : offset + length])
        changed = changes[number](record) if number in changes else stored[offset : offset + length]
        example = changed if isinstance(changed, bytes) else encode(changed)
        index += struct.pack("<QQ", len(data) + HEADER_BYTES, len(example))
        data += frame(example)
    path.write_bytes(data)
    Path(f"{path}.index").write_bytes(index)
    known = {"num_bytes": len(data), "crc32c": crc(data), "index_crc32c": crc(index)}
    json_path = folder / "manifest.json"
    text = json.loads(json_path.read_text())
    text["splits"][split]["shards"][0] |= known
    json_path.write_text(json.dumps(text))
    return load_manifest(manifest.url)


def crc(data: bytes) -> int:
    return google_crc32c.value(bytes(data))


def no_image(record: Record) -> Record:
    """Bytes that are no image."""
    return record._replace(encoded=b"\x89PNG no more" * 20)


def cut_image(record: Record) -> Record:
    """Half of the image."""
    return record._replace(encoded=record.encoded[: len(record.encoded) // 2])


def labelled(label: int) -> Callable[[Record], Record]:
    """Another label."""
    return lambda record: record._replace(label=label)
