"""TFRecord frames and tf.train.Example, written and read without TensorFlow, so that preparing never imports it.

A frame is: length (uint64), masked crc32c of the length, the Example's bytes, masked crc32c of those; little-endian.
The Examples are Protocol Buffers with their features in alphabetical order, so the same example is the same bytes.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

LENGTH_BYTES = 8
CRC_BYTES = 4
#: From the start of a frame to its Example.
HEADER_BYTES = LENGTH_BYTES + CRC_BYTES

ENCODED = "image/encoded"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
KEY = "image/key"
WEIGHT = "example/weight"
#: The format of an image that is stored as its pixels: uint8 [height, width, channels].
RAW = "raw"

_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_ONE_BYTE = [bytes((number,)) for number in range(0x80)]
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5

Value = bytes | int | float
_T = TypeVar("_T")


class CorruptRecord(ValueError):
    """A record is not what was written. Says which shard, which record, where, and what is wrong."""


class Record(NamedTuple):
    """One stored example."""

    encoded: bytes
    format: str  # jpeg | png | raw
    height: int
    width: int
    label: int
    key: str
    weight: float = 1.0


def masked_crc(data: bytes | NDArray[np.uint8]) -> int:
    """The crc32c of `data` as TFRecord stores it."""
    return _masked(google_crc32c.value(data))


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(example: bytes) -> bytes:
    """The TFRecord frame round `example`."""
    framed = frame_parts((example,))
    return b"".join((framed.header, example, framed.trailer))


class Frame(NamedTuple):
    """What stands in a TFRecord before an Example and behind it, and the Example's crc32c and length."""

    header: bytes
    trailer: bytes
    crc32c: int
    num_bytes: int


def frame_parts(parts: Sequence[bytes]) -> Frame:
    """The frame round an Example that lies in several places."""
    num_bytes = sum(map(len, parts))
    length = _LENGTH.pack(num_bytes)
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return Frame(length + _CRC.pack(masked_crc(length)), _CRC.pack(_masked(crc)), crc, num_bytes)


def encode(record: Record) -> bytes:
    """`record` as a serialized tf.train.Example."""
    return b"".join(encode_parts(record))


def encode_parts(record: Record) -> tuple[bytes, bytes, bytes]:
    """The same in three parts, of which the second is `record.encoded` itself: an image is not copied."""
    image, key = record.encoded, record.key.encode()
    before = _stored(LABEL, record.label) + _before_bytes(_ENCODED_NAME, len(image))
    if record.weight != 1.0:
        before = _stored(WEIGHT, record.weight) + before
    in_front = _stored(FORMAT, record.format.encode()) + _stored(HEIGHT, record.height)
    after = b"".join((in_front, _before_key(len(key)), key, _stored(WIDTH, record.width)))
    return _head(1, len(before) + len(image) + len(after)) + before, image, after


def decode(example: bytes) -> Record:
    """The record in a serialized tf.train.Example; ValueError when there is none."""
    features = dict(_features(example))
    missing = [name for name in (ENCODED, LABEL) if name not in features]
    if missing:
        raise ValueError(f"the example has no feature {missing[0]}")
    return Record(
        encoded=_as(bytes, features[ENCODED]),
        format=_as(bytes, features.get(FORMAT, b"")).decode(),
        height=_as(int, features.get(HEIGHT, 0)),
        width=_as(int, features.get(WIDTH, 0)),
        label=_as(int, features[LABEL]),
        key=_as(bytes, features.get(KEY, b"")).decode(),
        weight=_as(float, features.get(WEIGHT, 1.0)),
    )


def varint_value(data: bytes) -> int:
    """The number, without a sign, that `data` begins with, as Protocol Buffers store it."""
    return _read_varint(data, 0)[0]


def _as(kind: type[_T], value: Any) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"a feature is {type(value).__name__} where {kind.__name__} belongs")
    return value


def _varint(number: int) -> bytes:
    if 0 <= number < 0x80:
        return _ONE_BYTE[number]
    if 0 < number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if 0 < number < 0x200000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _head(field: int, length: int) -> bytes:
    """What stands before `length` bytes of a field."""
    return _ONE_BYTE[field << 3 | _DELIMITED] + _varint(length)


def _delimited(field: int, payload: bytes) -> bytes:
    return _head(field, len(payload)) + payload


@lru_cache(maxsize=4096, typed=True)
def _stored(name: str, value: Value) -> bytes:
    """A feature as it stands in an Example; sizes, labels and formats come again and again."""
    return _delimited(1, _entry(name, value))


def _before_bytes(name: bytes, length: int) -> bytes:
    """What stands before `length` bytes that are a feature of an Example."""
    in_list = _head(1, length)
    in_feature = _head(_BYTES_LIST, len(in_list) + length) + in_list
    in_entry = name + _head(2, len(in_feature) + length) + in_feature
    return _head(1, len(in_entry) + length) + in_entry


@lru_cache(maxsize=4096)
def _before_key(length: int) -> bytes:
    return _before_bytes(_KEY_NAME, length)


def _entry(name: str, value: Value) -> bytes:
    if isinstance(value, bytes):
        feature = _delimited(_BYTES_LIST, _delimited(1, value))
    elif isinstance(value, int):
        feature = _delimited(_INT64_LIST, _delimited(1, _varint(value)))
    else:
        feature = _delimited(_FLOAT_LIST, _delimited(1, struct.pack("<f", value)))
    return _delimited(1, name.encode()) + _delimited(2, feature)


_ENCODED_NAME, _KEY_NAME = (_delimited(1, name.encode()) for name in (ENCODED, KEY))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the example ends inside a number")
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number & (1 << 64) - 1, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of one serialized message."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _read_varint(data, at)
            yield tag >> 3, number
            continue
        if kind == _DELIMITED:
            length, at = _read_varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} is not used by Examples")
        if at + length > len(data):
            raise ValueError("the example ends inside a field")
        yield tag >> 3, data[at : at + length]
        at += length


def _features(example: bytes) -> Iterator[tuple[str, Value]]:
    for _, features in _fields(example):
        for _, entry in _fields(_as(bytes, features)):
            parts = dict(_fields(_as(bytes, entry)))
            for kind, values in _fields(_as(bytes, parts.get(2, b""))):
                value = _first(kind, _as(bytes, values))
                if value is not None:
                    yield _as(bytes, parts.get(1, b"")).decode(), value


def _first(kind: int, values: bytes) -> Value | None:
    """The first value of a BytesList, FloatList or Int64List, packed or not."""
    for _, value in _fields(values):
        if kind == _FLOAT_LIST:
            return struct.unpack_from("<f", _as(bytes, value))[0]
        if kind == _BYTES_LIST:
            return value
        number = _read_varint(value, 0)[0] if isinstance(value, bytes) else value
        return number - (1 << 64) if number >> 63 else number
    return None
