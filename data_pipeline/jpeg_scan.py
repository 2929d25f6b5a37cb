"""Damage inside of a JPEG, behind a head that is whole: what decoders fill with grey and say nothing of.

Its compressed data are one long number without checksums; what is read wrongly from some bit on is a picture too. But
it hardly ever ends where the data end. So the data are decoded with two different ends behind them: where that makes a
difference, the picture reached into them, and data are missing. And they are decoded with their last bytes replaced:
where that makes none, the picture was over before. What changes neither, such as a flipped bit after which the decoder
finds its way again in the same block, cannot be told from another picture.
"""

import io
from typing import NamedTuple

from PIL import Image

from data_pipeline.jpeg import JPEG_END, LENGTH

_SOI_BYTES = 2
_EOI, _SCAN, _RESTART_INTERVAL, _FILL = 0xD9, 0xDA, 0xDD, 0xFF
_RESTARTS = range(0xD0, 0xD8)
_ONE_PASS = (0xC0, 0xC1)
#: Reserved, or of no meaning between segments.
_NO_SEGMENT = frozenset({*range(0x02, 0xC0), 0x01, *_RESTARTS, 0xD8})
#: Two ends that no picture has: no byte of them is 255, and they differ in every one.
_ENDS = (bytes(range(3, 203, 7)) * 8, bytes(range(202, 2, -7)) * 8)
#: So many bytes behind the last pixel are too many.
_SURPLUS = 32


def scan_fault(data: bytes) -> str | None:
    """What is wrong with the compressed data of a JPEG; OSError or SyntaxError of Pillow's where it cannot be read."""
    found = _scans(data)
    if isinstance(found, str):
        return found
    body = data[: found.end].rstrip(b"\xff")
    small = 8 if found.is_all else 1  # a progressive JPEG tells what its pixels have in common first
    seen = _picture(body + _ENDS[0] + JPEG_END, small)
    if seen != _picture(body + _ENDS[1] + JPEG_END, small):
        return "its compressed data end before its last pixel"
    last = body[found.begin :][-2 * _SURPLUS :]
    if not found.is_all or len(last) < 2 * _SURPLUS or len(set(last[_SURPLUS:])) == 1:  # some cameras fill up files
        return None
    changed = body[:-_SURPLUS].rstrip(b"\xff") + _ENDS[0] + JPEG_END
    if _picture(changed, small) != seen or _picture(changed, 1) != _picture(body + JPEG_END, 1):
        return None
    return "its last pixel comes before the end of its compressed data"


class _Scans(NamedTuple):
    """Where the last scan's compressed data are, and whether it is the only one and has all of each pixel."""

    begin: int
    end: int
    is_all: bool


def _scans(data: bytes) -> _Scans | str:
    """The scans of a JPEG, or what is wrong with its markers."""
    at, begin, interval, scans, is_one_pass = _SOI_BYTES, 0, 0, 0, False
    while at + 2 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _NO_SEGMENT:
            return f"at byte {at} a marker should be"
        if marker == _FILL:
            at += 1
            continue
        if marker == _EOI:
            return _Scans(begin, at, is_one_pass and scans == 1) if scans else "it has no compressed data"
        if at + 4 > len(data):
            break
        (length,) = LENGTH.unpack_from(data, at + 2)
        if marker == _RESTART_INTERVAL and length == 4:
            (interval,) = LENGTH.unpack_from(data, at + 4)
        is_one_pass = is_one_pass or marker in _ONE_PASS
        at += 2 + length
        if marker == _SCAN:
            scans, begin = scans + 1, at
            found = _end_of_scan(data, at, interval)
            if isinstance(found, str):
                return found
            at = found
    return "its end marker is missing"


def _end_of_scan(data: bytes, at: int, interval: int) -> int | str:
    """Where the next marker is that ends the compressed data which begin at `at`; or what is wrong."""
    restarts = 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker in _RESTARTS:
            if not interval or marker != _RESTARTS[restarts % 8]:
                return f"at byte {at} a restart marker is out of its order"
            restarts += 1
        elif marker not in (0, _FILL):
            return at
        at += 1 if marker == _FILL else 2
    return "its end marker is missing"


def _picture(data: bytes, scale: int) -> bytes:
    """The pixels of a JPEG, or of one that is `scale` times smaller in each direction, which takes half of the time."""
    with Image.open(io.BytesIO(data)) as image:
        if scale > 1:
            image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
        return image.tobytes()
