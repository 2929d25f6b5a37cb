"""Contact sheets and tables, compared with the source images, with TensorFlow's own reader, and with training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFont
from sklearn.datasets import load_digits

from conf.errors import BadSpec
from conf.schema import AugmentSpec, BadRecord, DataSpec, Encoding, InspectSpec, JobSpec, Remainder, StorageSpec
from data_pipeline.batches import ChosenOrder
from data_pipeline.inspect import augmented_examples, inspect, sheet_name
from data_pipeline.manifest import Manifest, Shard, Split
from data_pipeline.order import BatchShape, draws, place_to_example
from data_pipeline.pipeline import training_dataset
from data_pipeline.records import CorruptRecord, Record
from data_pipeline.samples import Part, part_with
from data_pipeline.sheets import Grid, fitted_text, picture
from data_pipeline.summary import class_table, human, summary
from data_pipeline.versions import versions


def inspected(manifest: Manifest, out: Path, data: DataSpec | None = None, **spec: object) -> JobSpec:
    """Inspects a set; the job that asked for it."""
    data = replace(data or DataSpec(), name="tfrecord", path=manifest.url)
    job = JobSpec(data=data, inspect=InspectSpec(out=str(out), **spec), storage=StorageSpec(root=str(out)))
    inspect(job)
    return job


def stored(manifest: Manifest, split: str) -> list[tf.train.Example]:
    """The split's Examples in their order, read by TensorFlow."""
    paths = [f"{manifest.url}/{shard.name}" for shard in manifest.splits[split].shards]
    return [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(paths)]


def feature(example: tf.train.Example, name: str) -> bytes | int:
    values = example.features.feature[name]
    return (values.bytes_list.value or values.int64_list.value)[0]


def cut(sheet: Image.Image, row: int, column: int, side: int, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a tile's image."""
    x, y = Grid(side).corner(row, column)
    x, y = x + (side - size[0]) // 2, y + (side - size[1]) // 2
    return np.asarray(sheet.crop((x, y, x + size[0], y + size[1])))


def test_the_sheets_of_digits_show_the_first_of_each_class_as_scikit_learn_has_them(digits, tmp_path):
    inspected(digits, tmp_path, examples=10, tile=40)
    scans = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    examples = stored(digits, "train")
    for label in range(10):
        sheet = Image.open(tmp_path / f"class_{label}_{label}.png")
        own = [example for example in examples if feature(example, "image/class/label") == label][:10]
        for number, example in enumerate(own):
            scan = scans[int(feature(example, "image/key"))]
            shown = cut(sheet, *divmod(number, 8), 40, (40, 40))
            np.testing.assert_array_equal(shown, np.kron(scan, np.ones((5, 5), np.uint8))[..., None].repeat(3, -1))
        assert sheet.size == Grid(40).size(2, 8)
    assert len(list(tmp_path.glob("class_*.png"))) == 10


@pytest.mark.parametrize("encoding", Encoding)
def test_the_sheets_of_photographs_show_the_pixels_of_their_files(encoding, folder, prepare_set, tmp_path):
    manifest = prepare_set(name="folder", path=str(folder), num_shards=2, encoding=encoding)
    inspected(manifest, tmp_path / "sheets", examples=50, tile=96)
    examples = stored(manifest, "train")
    for label, name in enumerate(manifest.classes):
        sheet = Image.open(tmp_path / "sheets" / f"class_{label}_{name}.png")
        keys = [feature(one, "image/key").decode() for one in examples if feature(one, "image/class/label") == label]
        assert len(keys) == manifest.splits["train"].class_counts[label]
        for number, key in enumerate(keys):
            source = Image.open(folder / key).convert("RGB")
            times = 96 // max(source.size)
            assert times in (1, 2)
            expected = np.asarray(source).repeat(times, 0).repeat(times, 1)
            size = (source.width * times, source.height * times)
            np.testing.assert_array_equal(cut(sheet, *divmod(number, 8), 96, size), expected)


AUGMENTED = {
    "gathered": DataSpec(channels=1, augment=AugmentSpec(flip=True, pad_crop=2, contrast=0.4), remainder=Remainder.pad),
    "streamed": DataSpec(
        augment=AugmentSpec(flip=True, crop_min_area=0.3, brightness=0.2), image_size=24, remainder=Remainder.pad
    ),
}


@pytest.mark.parametrize("way", AUGMENTED)
def test_the_augmented_sheet_shows_what_training_yields(way, digits, folder, prepare_set, tmp_path):
    manifest = digits if way == "gathered" else prepare_set(name="folder", path=str(folder), num_shards=4)
    data, side = AUGMENTED[way], {"gathered": 8, "streamed": 24}[way]
    job = inspected(manifest, tmp_path / "sheets", data, rows=6, draws=3, tile=48, examples=1)
    sheet = Image.open(tmp_path / "sheets" / "augmented.png")
    assert sheet.size == Grid(48).size(6, 4)
    part, own = augmented_examples(job, manifest)
    numbers = part.numbers[own]
    count, size = manifest.splits["train"].num_examples, 32
    steps = -(-count // size)
    for epoch in range(3):
        batches = training_dataset(
            manifest, job.data, 0, BatchShape(size), range(1), side, start_step=epoch * steps
        ).take(steps)
        images = np.concatenate([batch["image"].numpy() for batch in batches])[:count]
        place_of = np.argsort(place_to_example(0, epoch, np.arange(count), count))
        for row, number in enumerate(numbers):
            expected = np.rint(images[place_of[number]]).astype(np.uint8).repeat(48 // side, 0).repeat(48 // side, 1)
            shown = cut(sheet, row, 1 + epoch, 48, (48, 48))
            np.testing.assert_array_equal(shown, np.broadcast_to(expected, (48, 48, 3)))
    plain = stored(manifest, "train")[numbers[0]]
    if way == "gathered":
        scan = np.rint(load_digits().images[int(feature(plain, "image/key"))] * (255 / 16)).astype(np.uint8)
        assert (cut(sheet, 0, 0, 48, (48, 48))[..., 0] == np.kron(scan, np.ones((6, 6), np.uint8))).all()


def test_without_augmentation_there_is_no_such_sheet(digits, tmp_path):
    inspected(digits, tmp_path, examples=1)
    assert not (tmp_path / "augmented.png").exists()


def test_only_the_shards_that_are_needed_are_read_and_numbers_stay_those_of_the_split():
    shards = [Shard(f"{n}", sum(counts), 1, 0, 0, counts) for n, counts in enumerate([[5, 0], [4, 0], [1, 1], [9, 9]])]
    manifest = Manifest("x", "x", ["a", "b"], {"train": Split(29, [19, 10], shards)}, None, 0, "")
    part = part_with(manifest, "train", 2)
    assert [shard.name for shard in part.manifest.splits["train"].shards] == ["0", "2", "3"]
    assert part.numbers.tolist() == [*range(5), 9, 10, *range(11, 29)]
    assert part.manifest.splits["train"].class_counts == [15, 10]


def test_what_is_drawn_belongs_to_the_number_in_the_whole_split():
    order = ChosenOrder(np.array([0, 1]), np.array([7, 9]), 3, 5, 4)
    found = order.batches(1, 64)
    assert found.examples.tolist() == [[0, 1]] * 3
    for epoch, own in zip((1, 2, 3), found.draws, strict=True):
        np.testing.assert_array_equal(own, draws(3, epoch, np.array([7, 9]), 5))


def test_the_table_counts_what_is_stored(digits):
    counted = {
        split: np.bincount([feature(one, "image/class/label") for one in stored(digits, split)])
        for split in ("train", "validation", "test")
    }
    rows = [line.split() for line in class_table(digits)]
    assert rows[0] == ["class", "train", "validation", "test", "of", "train"]
    for label, row in enumerate(rows[1:]):
        assert row[:4] == [str(label), *(str(counted[split][label]) for split in counted)]
        assert row[4] == f"{counted['train'][label] / counted['train'].sum():.1%}"
    said = "\n".join(summary(digits))
    num_bytes = sum(path.stat().st_size for path in Path(digits.url).glob("train*.tfrecord"))
    assert f"1,259       3  {human(num_bytes):>9}" in said
    assert digits.digest in said and "8x8, grey" in said and f"numpy {np.__version__}" in said


def test_bytes_are_told_as_a_person_says_them():
    assert [human(number) for number in (1023, 1024, 3 << 29)] == ["1023 bytes", "1.0 KiB", "1.5 GiB"]


def test_what_cannot_be_shown_is_named(digits, tmp_path):
    with pytest.raises(BadSpec, match=r"inspect.split=tset - the set has no such split - it has .*train"):
        inspected(digits, tmp_path, split="tset")
    with pytest.raises(CorruptRecord, match=r"example cats/1\.jpg cannot be decoded"):
        picture(Record(b"no image", "jpeg", 1, 1, 0, "cats/1.jpg"))


def test_files_are_named_after_classes_of_any_name(digits):
    odd = replace(digits, classes=["a/b c", "..", "x" * 300, "grün", *"456789"])
    names = [sheet_name(label, odd) for label in range(4)]
    assert names == ["class_0_a_b_c.png", "class_1_...png", f"class_2_{'x' * 60}.png", "class_3_grün.png"]


def test_long_labels_keep_their_end():
    font = ImageFont.load_default(10)
    assert fitted_text("short", font, 100) == "short"
    shown = fitted_text("a/very/long/path/to/some/image_0001.jpg", font, 100)
    assert shown.startswith("…") and shown.endswith("image_0001.jpg") and font.getlength(shown) <= 100


def test_grey_of_sixteen_bits_shows_its_upper_eight(tmp_path):
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16) << 8) + 7
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    shown = np.asarray(picture(Record(path.read_bytes(), "png", 16, 16, 0, "")))
    seen = tf.io.decode_png(path.read_bytes(), 3).numpy()
    np.testing.assert_array_equal(shown, seen)


def test_a_corrupt_record_is_named_or_left_out_as_training_would(folder, prepare_set, tmp_path):
    manifest = prepare_set(name="folder", path=str(folder))
    shard = Path(manifest.url, manifest.splits["train"].shards[0].name)
    first = stored(manifest, "train")[0]
    bytes_of = bytearray(shard.read_bytes())
    bytes_of[bytes_of.index(feature(first, "image/encoded")) + 300] ^= 1
    shard.write_bytes(bytes_of)
    with pytest.raises(CorruptRecord, match="corrupt record 0 at byte 12"):
        inspected(manifest, tmp_path / "sheets")
    inspected(manifest, tmp_path / "sheets", DataSpec(on_corrupt=BadRecord.skip), tile=96, examples=50)
    label = feature(first, "image/class/label")
    sheet = Image.open(tmp_path / "sheets" / f"class_{label}_{manifest.classes[label]}.png")
    left = manifest.splits["train"].class_counts[label] - 1
    assert cut(sheet, *divmod(left - 1, 8), 96, (80, 80)).std() > 5
    assert cut(sheet, *divmod(left, 8), 96, (96, 96)).std() == 0  # paper


def test_an_odd_number_of_examples_is_shown_mixed_with_a_neighbour(digits):
    job = JobSpec(data=DataSpec(channels=1, augment=AugmentSpec(mixup=1.0)))
    whole = Part(digits, "train", np.arange(digits.splits["train"].num_examples))
    plain, *epochs = versions(job, whole, np.arange(5), 2)
    assert [images.shape for images in (plain, *epochs)] == [(5, 8, 8, 1)] * 3
    for images in epochs:
        share = np.sum((images[0] - plain[0]) * (plain[1] - plain[0])) / np.sum((plain[1] - plain[0]) ** 2)
        np.testing.assert_allclose(images[0], plain[0] + share * (plain[1] - plain[0]), atol=1e-2)
        assert 0 < share <= 0.5
