"""The head of JPEGs, against Pillow, which reads them properly."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from data_pipeline.encoding import BadImage, encode_image
from data_pipeline.jpeg import jpeg_head
from data_pipeline.sources import Example


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photograph(photographs: list[np.ndarray]) -> Image.Image:
    return Image.fromarray(photographs[0][100:161, 200:293])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_heads_are_what_pillow_reads(photograph: Image.Image, mode: str) -> None:
    image = photograph.convert(mode)
    kinds = itertools.product((20, 95), (0, 2), (False, True), (False, True), (0, 3))
    for quality, subsampling, progressive, optimize, restart in kinds:
        options = {"quality": quality, "subsampling": subsampling, "progressive": progressive, "optimize": optimize}
        data = jpeg(image, **options, restart_marker_blocks=restart, comment=b"\xff\xd9 \xff\xda", dpi=(72, 72))
        head = jpeg_head(data)
        with Image.open(io.BytesIO(data)) as opened:
            assert head == (opened.height, opened.width, {"L": 1, "RGB": 3}[opened.mode])


def test_a_thumbnail_does_not_stand_for_its_picture(photograph: Image.Image) -> None:
    """EXIF may hold a whole JPEG; where a file is cut behind that one, it still ends with an end marker."""
    small = jpeg(photograph.resize((16, 16)))
    segment = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0" + small
    data = jpeg(photograph)
    data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert jpeg_head(data) == (61, 93, 3)
    assert jpeg_head(data[: data.index(small) + len(small)]) is None


def test_what_is_unusual_is_left_to_pillow(photograph: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    assert jpeg_head(jpeg(photograph, exif=exif)) is None
    assert jpeg_head(jpeg(photograph, xmp=xmp)) is None
    assert jpeg_head(jpeg(photograph.convert("CMYK"))) is None
    assert jpeg_head(jpeg(photograph) + b"behind it") is None
    out = io.BytesIO()
    photograph.save(out, "PNG")
    assert jpeg_head(out.getvalue()) is None


def test_no_cut_jpeg_is_taken_for_whole(photograph: Image.Image) -> None:
    data = jpeg(photograph)
    for length in range(len(data)):
        assert jpeg_head(data[:length]) is None
    for length in (0, 1, 2, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(BadImage):
            encode_image(Example(data[:length], 0, "key"), None)


def test_noise_is_refused_and_never_fails() -> None:
    random = np.random.default_rng(0)
    for length in random.integers(0, 200, 3000).tolist():
        assert jpeg_head(b"\xff\xd8\xff" + random.bytes(length) + b"\xff\xd9") is None
