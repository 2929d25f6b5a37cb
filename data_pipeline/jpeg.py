"""What the head of a JPEG says, read without decoding it: ITU-T T.81, annex B.

Opening a file with Pillow costs as much as all the rest of storing it; walking over its segments costs a tenth.
"""

import struct
from typing import NamedTuple

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
_SCAN, _APP1, _FILL = 0xDA, 0xE1, 0xFF
#: Huffman-coded frames of 8 bits that every decoder reads: baseline, extended, progressive.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
#: Other frames, the height told after the scan, markers without a segment: rare, so Pillow is asked.
_UNUSUAL = frozenset({0x00, 0x01, *range(0xC3, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xDA), 0xDC})
#: The tag Orientation with its type, in an EXIF directory of either byte order, and its name in XMP.
_ORIENTATION = (b"\x12\x01\x03\x00", b"\x01\x12\x00\x03", b"Orientation")
LENGTH = struct.Struct(">H")
_FRAME = struct.Struct(">BHHB")


class JpegHead(NamedTuple):
    """Size in pixels; 1 channel is grey, 3 are colour."""

    height: int
    width: int
    channels: int


def jpeg_head(data: bytes) -> JpegHead | None:
    """The head of a whole and usual JPEG; None for everything that has to be looked at more closely.

    Whole: every segment up to the first scan lies inside the file, and the file ends with the end marker. Usual: grey
    or three colours of 8 bits, and nothing that says how to turn it.
    """
    if data[:2] != JPEG_START or data[-2:] != JPEG_END:
        return None
    at, end, head = 2, len(data) - 4, None
    while at < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == _FILL:
            at += 1
            continue
        if marker in _UNUSUAL:
            return None
        (length,) = LENGTH.unpack_from(data, at + 2)
        if marker == _SCAN:
            return head
        if marker in _FRAMES:
            head = _frame(data[at + 4 : at + 2 + length])
        elif marker == _APP1 and any(mark in data[at + 4 : at + 2 + length] for mark in _ORIENTATION):
            return None
        at += 2 + length
    return None


def _frame(segment: bytes) -> JpegHead | None:
    if len(segment) < _FRAME.size:
        return None
    precision, height, width, channels = _FRAME.unpack_from(segment)
    return JpegHead(height, width, channels) if precision == 8 and height and width and channels in (1, 3) else None
