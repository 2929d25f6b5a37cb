"""Photographs to measure input pipelines with, in every form in which somebody reads them.

JPEGs of 500x375 of about 85 KB, cut from scikit-learn's two sample photographs. Below one folder: `jpeg/` the files,
`files/`, `small/` and `pixels/` prepared by Convoy (as they are; sides of 256 at most; the same decoded), and, where
their packages are installed, `shards/*.tar` for WebDataset and `array_record/` for Grain.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from conf.schema import DataSpec, Encoding, JobSpec, SplitSpec
from data_pipeline.prepare import prepare

try:
    import webdataset
except ModuleNotFoundError:
    webdataset = None
try:
    from array_record.python.array_record_module import ArrayRecordWriter
except ModuleNotFoundError:
    ArrayRecordWriter = None

SHARDS = 4
SMALL = 256
_KINDS = {
    "files": (None, Encoding.files),
    "small": (SMALL, Encoding.files),
    "pixels": (SMALL, Encoding.pixels),
}


def write_jpegs(folder: Path, count: int) -> None:
    """`count` different photographs of 500x375 in two classes."""
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for number in range(count):
        width, height = (round(side * random.uniform(0.78, 1)) for side in (640, 427))
        cut = photographs[number % 2].crop((640 - width, 427 - height, 640, 427)).resize((500, 375))
        out = io.BytesIO()
        cut.save(out, "JPEG", quality=96)
        path = folder / f"class_{number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())


def write_photographs(folder: Path, count: int) -> None:
    """The same in all forms."""
    write_jpegs(folder / "jpeg", count)
    common = DataSpec(name="folder", path=f"{folder}/jpeg", split=SplitSpec(1.0, 0.0, 0.0), num_shards=SHARDS)
    for kind, (max_side, encoding) in _KINDS.items():
        data = replace(common, out=f"{folder}/{kind}", max_side=max_side, encoding=encoding)
        prepare(JobSpec(data=data))
    files = sorted(folder.glob("jpeg/*/*.jpg"))
    for write in (_tar_shards, _array_records):
        write(folder, [files[number::SHARDS] for number in range(SHARDS)])


def _tar_shards(folder: Path, parts: list[list[Path]]) -> None:
    if webdataset is None:
        return
    (folder / "shards").mkdir()
    for number, part in enumerate(parts):
        with webdataset.TarWriter(str(folder / "shards" / f"{number:05d}.tar"), encoder=False) as writer:
            for path in part:
                writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": path.parent.name[-1].encode()})


def _array_records(folder: Path, parts: list[list[Path]]) -> None:
    if ArrayRecordWriter is None:
        return
    (folder / "array_record").mkdir()
    for number, part in enumerate(parts):
        writer = ArrayRecordWriter(str(folder / "array_record" / f"{number:05d}.array_record"), "group_size:1")
        for path in part:
            writer.write(path.parent.name[-1].encode() + path.read_bytes())
        writer.close()


Draw = Callable[[], float]


def random_crop(width: int, height: int, draw: Draw) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random resized crop, as torchvision draws it: for peers that have none."""
    for _ in range(10):
        area = width * height * (0.08 + 0.92 * draw())
        ratio = float(np.exp(np.log(3 / 4) + draw() * (np.log(4 / 3) - np.log(3 / 4))))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(draw() * (width - w + 1)), int(draw() * (height - h + 1)), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side
