"""Damage inside of JPEGs: whole ones pass, broken ones are found."""

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.errors import BadSpec
from conf.schema import BadFile, Encoding, SplitSpec
from data_pipeline.encoding import BadImage, encode_image
from data_pipeline.jpeg_scan import scan_fault
from data_pipeline.manifest import Manifest
from data_pipeline.sources import Example

Prepare = Callable[..., Manifest]
END = b"\xff\xd9"


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def scan_of(data: bytes) -> int:
    """Where the compressed data of the first scan begin."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@pytest.fixture(scope="module")
def photograph(photographs: list[np.ndarray]) -> Image.Image:
    return Image.fromarray(photographs[0][60:260, 200:493])


KINDS = {
    "usual": {"quality": 95},
    "small": {"quality": 60, "optimize": True},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
    "progressive": {"quality": 90, "progressive": True},
}


def test_whole_ones_of_every_kind_pass(photographs: list[np.ndarray]) -> None:
    random = np.random.default_rng(0)
    pictures = [
        photographs[1][:90, :123],
        random.integers(0, 256, (61, 47, 3), dtype=np.uint8),
        np.full((64, 40, 3), 255, np.uint8),
        np.concatenate([photographs[0][:50, :70], np.full((70, 70, 3), 200, np.uint8)]),
        photographs[0][:1, :1],
        photographs[0][:3, :300],
    ]
    kinds = itertools.product(pictures, ("L", "RGB", "CMYK"), (30, 100), (0, 2), (False, True), (0, 5))
    for picture, mode, quality, subsampling, progressive, restart in kinds:
        options = {"subsampling": subsampling, "progressive": progressive, "restart_marker_blocks": restart}
        data = jpeg(Image.fromarray(picture).convert(mode), quality=quality, **options, comment=b"\xff\xd9 \xff\xda")
        assert scan_fault(data) is None
        assert scan_fault(data + b"behind it") is None
        assert scan_fault(data[:-2] + b"\xff\xff\xff" + END) is None
        assert scan_fault(data[:-2] + b"\0" * 100 + END) is None


def test_every_image_of_cifar10_passes(cifar10_folder: Path) -> None:
    paths = sorted(cifar10_folder.glob("*/*/*.jpg"))[::24]
    assert len(paths) == 500
    assert {scan_fault(path.read_bytes()) for path in paths} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_what_breaks_off_is_found_wherever_it_does(photograph: Image.Image, kind: str) -> None:
    """An end marker behind it makes decoders fill the rest with grey, silently."""
    data = jpeg(photograph, **KINDS[kind])
    begin, silent = scan_of(data), 0
    for at in np.linspace(begin + 1, len(data) - 200, 25).astype(int).tolist():
        cut = data[:at].rstrip(b"\xff") + END
        try:
            Image.open(io.BytesIO(cut)).load()
        except OSError:
            continue  # in a table between two scans, which everybody notices
        silent += 1
        assert scan_fault(cut) in ("its compressed data end before its last pixel", "its end marker is missing")
        assert encode_image(Example(cut, 0, "key"), None).data == cut, "nobody looks unless asked"
        for max_side, encoding in ((None, Encoding.files), (64, Encoding.files), (None, Encoding.pixels)):
            with pytest.raises(BadImage, match=r"before its last pixel|is missing"):
                encode_image(Example(cut, 0, "key"), max_side, encoding, verify=True)
    assert silent >= 20


@pytest.mark.parametrize(("kind", "least"), [("usual", 36), ("small", 30)])
def test_a_damaged_stretch_is_found_most_of_the_time(photograph: Image.Image, kind: str, least: int) -> None:
    """512 bytes that are missing, or lost to noise, as bad sectors and broken transfers leave them."""
    data, random = jpeg(photograph, **KINDS[kind]), np.random.default_rng(1)
    begin, found = scan_of(data), 0
    for at in np.linspace(begin, len(data) - 1000, 20).astype(int).tolist():
        noise = random.integers(0, 255, 512, dtype=np.uint8).tobytes()
        for damaged in (data[:at] + data[at + 512 :], data[:at] + noise + data[at + 512 :]):
            try:
                found += scan_fault(damaged) is not None
            except (OSError, SyntaxError):
                found += 1
    assert found >= least  # of 40


def test_restart_markers_have_an_order(photograph: Image.Image) -> None:
    data = jpeg(photograph, **KINDS["restarts"])
    third = data.index(b"\xff\xd2", scan_of(data))
    assert (
        scan_fault(data[:third] + b"\xff\xd5" + data[third + 2 :])
        == f"at byte {third} a restart marker is out of its order"
    )
    without = jpeg(photograph, **KINDS["usual"])
    middle = (scan_of(without) + len(without)) // 2
    assert "restart marker" in str(scan_fault(without[:middle] + b"\0\xff\xd0" + without[middle:]))
    assert "a marker should be" in str(scan_fault(without[:middle] + b"\0\xff\x42" + without[middle:]))


def test_damaged_files_are_named_when_they_are_asked_for(prepare_set: Prepare, folder: Path) -> None:
    """A JPEG that breaks off, and a PNG with a turned bit among pixels, which has a checksum."""
    jpeg_file, png_file = folder / "flower" / "07.jpg", folder / "china" / "99.png"
    data = jpeg_file.read_bytes()
    jpeg_file.write_bytes(data[: (scan_of(data) + len(data)) // 2] + END)
    out = io.BytesIO()
    Image.open(folder / "china" / "00.jpg").save(out, "PNG", compress_level=0)
    turned = bytearray(out.getvalue())
    turned[len(turned) // 2] ^= 4
    png_file.write_bytes(turned)
    data = {"name": "folder", "path": str(folder), "verify": True}
    with pytest.raises(BadSpec) as caught:
        prepare_set(**data, split=SplitSpec(1.0, 0.0, 0.0))
    assert "flower/07.jpg - cannot be read as an image: its compressed data end before its last pixel" in str(
        caught.value
    )
    assert "china/99.png - cannot be read as an image: " in str(caught.value)
    manifest = prepare_set(**data, on_bad_file=BadFile.skip)
    report = json.loads(Path(manifest.url, "prepare_report.json").read_text())
    assert report["skipped"]["count"] == 2 and set(report["skipped"]["files"]) == {"flower/07.jpg", "china/99.png"}
