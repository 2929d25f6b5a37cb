"""An image of a source as the bytes that are stored.

`files`: JPEGs as they are, everything else losslessly as PNG. `pixels`: the decoded image, row by row.
"""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from conf.schema import Encoding
from data_pipeline.jpeg import JPEG_END, JPEG_START, jpeg_head
from data_pipeline.jpeg_scan import scan_fault
from data_pipeline.records import RAW
from data_pipeline.sources import Example, Pixels
from storage.source_files import content_mark

_ORIENTATION = 0x0112
_UPRIGHT = (None, 0, 1)
_PNG_AS_IS = frozenset({"L", "RGB", "LA", "RGBA", "I;16"})
_CHANNELS = {"L": 1, "LA": 1, "I;16": 1}
_LONGEST_UNASKED = 10_000  # pixels a side; of larger JPEGs Pillow is asked, which refuses bombs
_PATHS = (str, Path)
_JPEG_QUALITY = 95  # of a JPEG that data.max_side makes smaller


class BadImage(ValueError):
    """This cannot be read as an image, and why."""


class Encoded(NamedTuple):
    """A stored image. `channels` is 1 for grey and 3 for colour; `file_mark` is of the file it came from."""

    data: bytes
    format: str  # jpeg | png | raw
    height: int
    width: int
    channels: int
    file_mark: int | None = None
    is_file: bool = False  # stored byte for byte


def encode_image(
    example: Example, max_side: int | None, encoding: Encoding = Encoding.files, verify: bool = False
) -> Encoded:
    """The bytes to store for an example; BadImage when it is none, or, with `verify`, when it is damaged inside."""
    image = example.image
    if callable(image):
        image = image()
    if isinstance(image, np.ndarray):
        return _encode_pixels(image, max_side, encoding)
    try:
        data = _read(image) if isinstance(image, _PATHS) else bytes(image)
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from error
    if verify:
        _verify(data)
    mark = content_mark(data)
    head = jpeg_head(data) if encoding is Encoding.files else None
    if head is not None and max(head.height, head.width) <= (max_side or _LONGEST_UNASKED):
        return Encoded(data, "jpeg", head.height, head.width, head.channels, mark, True)
    encoded = _encode_file(data, max_side, encoding)
    return encoded._replace(file_mark=mark, is_file=encoded.data is data)


def _read(path: str | Path) -> bytes:
    """A file's bytes; twice as fast as through a file object, which counts where each file is small."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size)
        while len(data) < size and (more := os.read(descriptor, size)):  # one call reads 2 GiB at most
            data += more
        return data
    finally:
        os.close(descriptor)


def png(pixels: Pixels) -> bytes:
    """Pixels [height, width] or [height, width, 1 or 3], 8 or 16 bit, as a PNG; the same bytes for the same pixels."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    depth = 8 * pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    lines = np.empty((height, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # the filter "up": each row as its difference from the one above
    lines[:1, 1:] = rows[:1]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, depth, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, body) for name, body in parts)


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _encode_pixels(pixels: Pixels, max_side: int | None, encoding: Encoding) -> Encoded:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise BadImage(f"pixels of shape {list(pixels.shape)}; [height, width] or [height, width, 3] is an image")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise BadImage(f"pixels of type {pixels.dtype}; uint8 or uint16 is stored")
    if max_side is not None and max(pixels.shape[:2]) > max_side:
        pixels = np.asarray(_shrink(Image.fromarray(pixels), max_side))
    height, width, channels = pixels.shape[0], pixels.shape[1], 1 if pixels.ndim == 2 else 3
    if encoding is Encoding.files:
        return Encoded(png(pixels), "png", height, width, channels)
    if pixels.dtype == np.uint16:  # as TensorFlow reads a PNG of 16 bits
        pixels = (pixels >> 8).astype(np.uint8)
    return Encoded(pixels.tobytes(), RAW, height, width, channels)


def _encode_file(data: bytes, max_side: int | None, encoding: Encoding) -> Encoded:
    with _refusing(data), Image.open(io.BytesIO(data)) as image:
        return _encode_opened(image, data, max_side, encoding)


def _verify(data: bytes) -> None:
    """BadImage where a file is damaged behind its head, as far as can be told; what is decoded anyway aside."""
    with _refusing(data):
        fault = None
        if data.startswith(JPEG_START):
            fault = scan_fault(data)
        else:
            with Image.open(io.BytesIO(data)) as image:
                image.verify()  # the checksums of a PNG
        if fault is not None:
            raise BadImage(fault)


@contextlib.contextmanager
def _refusing(data: bytes) -> Iterator[None]:
    """BadImage for what Pillow raises, which is of many kinds."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImage("no image format is known that begins like this" if data else "the file is empty") from error
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(str(error) or type(error).__name__) from error


def _encode_opened(image: Image.Image, data: bytes, max_side: int | None, encoding: Encoding) -> Encoded:
    is_jpeg = image.format in ("JPEG", "MPO")
    upright = image.getexif().get(_ORIENTATION) in _UPRIGHT
    small = max_side is None or max(image.size) <= max_side
    as_file = encoding is Encoding.files
    if as_file and is_jpeg and upright and small and image.mode in ("L", "RGB"):
        if not data.endswith(JPEG_END):  # cut off, or followed by something: only decoding tells
            image.load()
        return Encoded(data, "jpeg", image.height, image.width, 1 if image.mode == "L" else 3)
    image.load()
    if as_file and image.format == "PNG" and upright and small and image.mode in _PNG_AS_IS:
        return Encoded(data, "png", image.height, image.width, _CHANNELS.get(image.mode, 3))
    picture = _plain(ImageOps.exif_transpose(image))
    if max_side is not None and not small:
        picture = _shrink(picture, max_side)
        if is_jpeg and as_file:
            return _as_jpeg(picture)
    return _encode_pixels(np.asarray(picture), None, encoding)


def _plain(image: Image.Image) -> Image.Image:
    """The image as grey (8 or 16 bit) or RGB; transparency is left out, palettes and inks become colours."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith("I;16"):
        # Pillow's own conversion from the other byte order cuts everything to 255.
        return image if image.mode == "I;16" else Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise BadImage(f"pixels of 32 bits (mode {image.mode}); 8 or 16 bits can be stored")
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def _shrink(image: Image.Image, max_side: int) -> Image.Image:
    scale = max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC if image.mode == "I;16" else Image.Resampling.LANCZOS)


def _as_jpeg(image: Image.Image) -> Encoded:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return Encoded(out.getvalue(), "jpeg", image.height, image.width, 1 if image.mode == "L" else 3)
