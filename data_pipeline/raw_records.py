"""Examples that store pixels, read together: pixels stay where they were read, and only what is round them is parsed.

Parsed by TensorFlow, the pixels of an example are copied three times before the first is looked at. Here every example
of a batch is read into one array, and where its pixels are in it is found by the bytes round them, which are always the
same kind (`records.encode`).
"""

import re
import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.allocator import aligned
from data_pipeline.order import Places
from data_pipeline.reader import RecordReader
from data_pipeline.records import ENCODED, FORMAT, HEIGHT, KEY, LABEL, RAW, WEIGHT, WIDTH, decode, varint_value

_FLOAT = struct.Struct("<f")
#: An example begins at a multiple of this: slices that do are not copied by TensorFlow.
_STEP = 64

_VARINT = rb"[\x80-\xff]*[\x00-\x7f]"
#: Field 1 or 2, delimited, and its length.
_ONE, _TWO = rb"\n" + _VARINT, rb"\x12" + _VARINT


def _name(name: str) -> bytes:
    """How the entry of a feature begins."""
    return _ONE + re.escape(bytes((0x0A, len(name))) + name.encode()) + _TWO


def _number(name: str) -> bytes:
    """The entry of an Int64List of one."""
    return _name(name) + rb"\x1a" + _VARINT + _ONE + b"(" + _VARINT + b")"


_WEIGHT = _name(WEIGHT) + _TWO + rb"\n\x04(.{4})"
_BEFORE = re.compile(
    _ONE + b"(?:" + _WEIGHT + b")?" + _number(LABEL) + _name(ENCODED) + _ONE + rb"\n(" + _VARINT + b")", re.DOTALL
)
_AFTER = re.compile(
    _name(FORMAT) + _ONE + re.escape(bytes((0x0A, len(RAW))) + RAW.encode()) + _number(HEIGHT)
    # The key, as far as its length.
    + _name(KEY) + _ONE + rb"\n(" + _VARINT + b")"
)  # fmt: skip
_AT_THE_END = re.compile(_number(WIDTH))


class RawExamples(NamedTuple):
    """The pixels of some examples in one array: of each height * width * channels bytes from `begin` on."""

    data: NDArray[np.uint8]  # [bytes]
    begin: Places  # [n], as all that follow
    label: NDArray[np.int32]
    weight: NDArray[np.float32]
    height: Places
    width: Places


class _Pixels(NamedTuple):
    """Where the pixels of an example are in it, and what is said of them."""

    begin: int
    num_bytes: int
    label: int
    weight: float
    height: int
    width: int


def read_raw(reader: RecordReader, channels: int, examples: Places) -> RawExamples:
    """The examples with these numbers, out of a set that stores pixels of so many channels.

    CorruptRecord names the first that is damaged, or is no such example; `reader` must not skip any.
    """
    block, found = Block((reader.mean_bytes + 2 * _STEP) * len(examples) * 5 // 4), []
    for example, (begin, length) in zip(examples.tolist(), reader.read_into(examples, block.take), strict=True):
        try:
            pixels = _checked(_pixels_of(block.data[begin : begin + length]), channels, reader.num_classes)
        except ValueError as error:
            reader.skip(example, str(error))
            raise
        found.append(pixels._replace(begin=begin + pixels.begin))
    places = np.array([(each.begin, each.height, each.width) for each in found], np.int64).T
    labels, weights = np.array([each.label for each in found]), np.array([each.weight for each in found])
    begins, heights, widths = map(np.ascontiguousarray, places)
    return RawExamples(block.data, begins, labels.astype(np.int32), weights.astype(np.float32), heights, widths)


def _checked(pixels: _Pixels, channels: int, num_classes: int) -> _Pixels:
    if pixels.num_bytes != pixels.height * pixels.width * channels or min(pixels.height, pixels.width) <= 0:
        raise ValueError("its pixels are not of the size it says")
    if not 0 <= pixels.label < num_classes:
        raise ValueError(f"its label is {pixels.label}, and there are {num_classes} classes")
    return pixels


def _pixels_of(example: NDArray[np.uint8]) -> _Pixels:
    """Where an example's pixels are; ValueError if it has none.

    One that was written by others, in another order, is changed: its pixels go to its beginning.
    """
    view = example.data
    before = _BEFORE.match(view)
    if before:
        weight, label, length = before.groups()
        num_bytes = _value(length)
        after = _AFTER.match(view, before.end() + num_bytes)
        end = after and _AT_THE_END.fullmatch(view, after.end() + _value(after[2]))
        if after and end:
            known = 1.0 if weight is None else _FLOAT.unpack(weight)[0]
            return _Pixels(before.end(), num_bytes, _value(label), known, _value(after[1]), _value(end[1]))
    try:
        record = decode(example.tobytes())
    except ValueError as error:
        raise ValueError(f"it is no example: {error}") from error
    if record.format != RAW:
        raise ValueError(f"its image is {record.format or 'of no format'}, where the set stores pixels")
    num_bytes = len(record.encoded)
    example[:num_bytes] = np.frombuffer(record.encoded, np.uint8)
    return _Pixels(0, num_bytes, record.label, record.weight, record.height, record.width)


@lru_cache(maxsize=4096)
def _value(varint: bytes) -> int:
    number = varint_value(varint)
    return number - (1 << 64) if number >> 63 else number


class Block:
    """One array that examples are read into, one after the other; it grows where they are larger than expected."""

    def __init__(self, num_bytes: int):
        self.data, self._end = aligned((num_bytes + _STEP,), np.uint8), 0

    def take(self, num_bytes: int) -> tuple[int, NDArray[np.uint8]]:
        """Where the next bytes begin, and the room for them, valid until more is taken."""
        begin = -(-self._end // _STEP) * _STEP
        self._end = begin + num_bytes
        if self._end > len(self.data):
            larger = aligned((2 * self._end,), np.uint8)
            larger[:begin] = self.data[:begin]
            self.data = larger
        return begin, self.data[begin : self._end]
