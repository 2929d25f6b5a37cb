"""Sets that store pixels (`data.encoding=pixels`): the same images and order, without decoding."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from conf.data_url import data_digest
from conf.errors import BadSpec
from conf.schema import AugmentSpec, BadRecord, DataSpec, Encoding, Remainder
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import evaluation_dataset, training_dataset
from data_pipeline.records import RAW, Record, decode
from data_pipeline.sheets import picture
from storage.data_dir import MANIFEST

Prepare = Callable[..., Manifest]
PIXELS = Encoding.pixels


def records(manifest: Manifest, split: str) -> list[Record]:
    paths = [str(Path(manifest.url, shard.name)) for shard in manifest.splits[split].shards]
    return [decode(serialized.numpy()) for serialized in tf.data.TFRecordDataset(paths)]


def pixels_of(record: Record) -> np.ndarray:
    return np.frombuffer(record.encoded, np.uint8).reshape(record.height, record.width, -1)


def batches(manifest: Manifest, data: DataSpec, size: int, first: int = 0, count: int = 5) -> list[dict]:
    dataset = training_dataset(manifest, data, 4, BatchShape(8), range(1), size, first)
    return list(dataset.take(count).as_numpy_iterator())


@pytest.fixture
def both(prepare_set: Prepare, folder: Path, cut_outs: dict[str, list[Image.Image]]) -> tuple[Manifest, Manifest]:
    """The folder of JPEGs, with grey ones, PNGs and one with transparency, as files and as pixels."""
    for number, image in enumerate(cut_outs["china"][:6]):
        image.convert("L").save(folder / "china" / f"grey_{number}.jpg")
        image.save(folder / "flower" / f"lossless_{number}.png")
    transparent = cut_outs["flower"][0].copy()
    transparent.putalpha(100)
    transparent.save(folder / "flower" / "transparent.png")
    asked = {"name": "folder", "path": str(folder), "num_shards": 2}
    return prepare_set(**asked), prepare_set(encoding=PIXELS, **asked)


def test_pixels_are_what_pillow_decodes(both: tuple[Manifest, Manifest], folder: Path) -> None:
    seen = 0
    for split in both[1].splits:
        for record in records(both[1], split):
            with Image.open(folder / record.key) as image:
                expected = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
            assert record.format == RAW and (record.height, record.width) == expected.shape[:2]
            np.testing.assert_array_equal(pixels_of(record).squeeze(), expected)
            seen += 1
    assert seen == 40 + 13
    assert (both[1].images.min_channels, both[1].images.max_channels) == (1, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augment",
    [AugmentSpec(), AugmentSpec(flip=True, crop_min_area=0.08), AugmentSpec(flip=True, pad_crop=3, contrast=0.2)],
    ids=["plain", "crops", "moved"],
)
def test_training_sees_what_it_would_of_files(
    both: tuple[Manifest, Manifest], augment: AugmentSpec, channels: int
) -> None:
    data = DataSpec(augment=augment, memory_bytes=0, channels=channels)
    theirs, ours = (batches(manifest, data, 48, first=3) for manifest in both)
    # Grey is computed by each decoder in its own rounding; where a crop of a JPEG begins, its decoder guesses colours.
    apart = 2.0 if augment.crop_min_area < 1 or channels == 1 else 0.0
    for one, other in zip(theirs, ours, strict=True):
        assert one["image"].std() > 20
        np.testing.assert_array_equal(one["label"], other["label"])
        assert np.abs(one["image"] - other["image"]).mean() <= apart
    in_memory = batches(both[1], replace(data, memory_bytes=1 << 30), 48, first=3)
    for one, other in zip(in_memory, ours, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_long_sides_are_made_smaller_and_not_encoded_again(
    prepare_set: Prepare, photographs: list[np.ndarray], tmp_path: Path
) -> None:
    for name, photograph in zip(("china", "flower"), photographs, strict=True):
        (tmp_path / "large" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(photograph).save(tmp_path / "large" / name / f"{number}.jpg", quality=95)
    manifest = prepare_set(name="folder", path=str(tmp_path / "large"), max_side=100, encoding=PIXELS)
    for record in records(manifest, "train"):
        with Image.open(tmp_path / "large" / record.key) as image:
            expected = np.asarray(image.resize((100, 67), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(pixels_of(record), expected)


def test_sixteen_bits_become_eight(prepare_set: Prepare, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 1 << 16, (20, 6, 7), dtype=np.uint16)
    np.savez(tmp_path / "deep.npz", x=deep, y=np.arange(20) % 2)
    files, ours = (
        prepare_set(name="npz", path=str(tmp_path / "deep.npz"), encoding=encoding)
        for encoding in (Encoding.files, PIXELS)
    )
    for file, record in zip(records(files, "train"), records(ours, "train"), strict=True):
        np.testing.assert_array_equal(pixels_of(record), tf.io.decode_png(file.encoded).numpy())
        assert file.key == record.key


def test_the_manifest_says_so(both: tuple[Manifest, Manifest]) -> None:
    files, ours = both
    assert (files.encoding, load_manifest(ours.url).encoding) == ("files", "pixels")
    assert files.url != ours.url and files.digest != ours.digest
    stored = json.loads(Path(ours.url, MANIFEST).read_text())
    del stored["encoding"]
    Path(files.url, MANIFEST).write_text(json.dumps(stored))
    assert load_manifest(files.url).encoding == "files"
    stored["encoding"] = "waves"
    Path(files.url, MANIFEST).write_text(json.dumps(stored))
    with pytest.raises(BadSpec, match=r"encoding waves, this Convoy reads files, pixels"):
        load_manifest(files.url)


def test_sets_of_files_keep_their_digest() -> None:
    assert data_digest(DataSpec(name="folder", path="/photographs"), 0) == "7e579c7a3494"


def test_corrupt_pixels_are_skipped(both: tuple[Manifest, Manifest]) -> None:
    path = Path(both[1].url, both[1].splits["train"].shards[0].name)
    shard, index = bytearray(path.read_bytes()), np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)
    shard[int(index[3].sum()) - 2000] ^= 1
    path.write_bytes(shard)
    for size, memory_bytes in ((32, 0), (32, 1 << 30)):
        data = DataSpec(on_corrupt=BadRecord.skip, memory_bytes=memory_bytes)
        elements = list(evaluation_dataset(both[1], "train", data, BatchShape(8), range(1), size).as_numpy_iterator())
        mask = np.concatenate([element["mask"] for element in elements])[: both[1].splits["train"].num_examples]
        assert np.flatnonzero(mask == 0).tolist() == [3]
        assert not elements[0]["image"][3].any() and elements[0]["image"][2].any()
    cropped = DataSpec(on_corrupt=BadRecord.skip, remainder=Remainder.pad, augment=AugmentSpec(crop_min_area=0.08))
    epoch = batches(both[1], cropped, 32, count=5)
    assert sum(batch["mask"].sum() for batch in epoch) == both[1].splits["train"].num_examples - 1
    with pytest.raises(tf.errors.OpError, match=rf"{path.name}: corrupt record 3 at byte"):
        batches(both[1], DataSpec(memory_bytes=0), 32, count=12)  # three epochs: each leaves out another five


def test_a_contact_sheet_shows_them(both: tuple[Manifest, Manifest], folder: Path) -> None:
    for record in records(both[1], "train"):
        with Image.open(folder / record.key) as image:
            np.testing.assert_array_equal(np.asarray(picture(record)), np.asarray(image.convert("RGB")))
