"""What a training loop gets: the right pixels at the right places, whichever way they are read, from any step."""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from conf.errors import BadSpec
from conf.schema import AugmentSpec, BadRecord, DataSpec, ModelSpec, Remainder
from data_pipeline.images import resize, resolve_image_size
from data_pipeline.manifest import Manifest
from data_pipeline.near_shards import NearShards
from data_pipeline.order import BatchShape, place_to_example
from data_pipeline.pipeline import evaluation_dataset, training_dataset
from data_pipeline.reader import RecordReader
from data_pipeline.records import CorruptRecord, decode
from storage.store import open_store

Prepare = Callable[..., Manifest]
Element = dict[str, np.ndarray]

IN_MEMORY, STREAMED = DataSpec(channels=1), DataSpec(channels=1, memory_bytes=0)
WAYS = pytest.mark.parametrize("data", [IN_MEMORY, STREAMED], ids=["in_memory", "streamed"])
EVERYTHING = AugmentSpec(flip=True, pad_crop=2, brightness=0.2, contrast=0.3)


def take(dataset: tf.data.Dataset, count: int) -> list[Element]:
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(some: list[Element], others: list[Element]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)


def stored(manifest: Manifest, split: str) -> Iterator[tuple[np.ndarray, int]]:
    """Pixels and label of each example in stored order, found without our reader and order."""
    reference = load_digits()
    paths = [str(Path(manifest.url, shard.name)) for shard in manifest.splits[split].shards]
    for serialized in tf.data.TFRecordDataset(paths):
        number = int(decode(serialized.numpy()).key)
        yield np.rint(reference.images[number][:, :, None] * (255 / 16)), reference.target[number]


@WAYS
def test_an_evaluation_is_the_split_in_stored_order(digits: Manifest, data: DataSpec) -> None:
    shape = BatchShape(50, 1, 2)
    elements = list(evaluation_dataset(digits, "test", data, shape, range(2), 8).as_numpy_iterator())
    real = [element["mask"] == 1 for element in elements]
    expected = list(stored(digits, "test"))
    assert len(elements) == 2 * 4 and all(element["image"].shape == (25, 8, 8, 1) for element in elements)
    images = np.concatenate([element["image"][mask] for element, mask in zip(elements, real, strict=True)])
    labels = np.concatenate([element["label"][mask] for element, mask in zip(elements, real, strict=True)])
    np.testing.assert_array_equal(images, [image for image, _ in expected])
    np.testing.assert_array_equal(labels, [label for _, label in expected])
    assert [element["batch_examples"] for element in elements] == [50] * 6 + [29] * 2


@WAYS
def test_training_follows_the_order(digits: Manifest, data: DataSpec) -> None:
    count, shape = digits.splits["train"].num_examples, BatchShape(100)
    elements = take(training_dataset(digits, data, 9, shape, range(1), 8, 0), 2 * (count // 100))
    images = np.stack([image for image, _ in stored(digits, "train")])
    for epoch in (0, 1):
        own = np.concatenate([e["image"] for e in elements[epoch * (count // 100) : (epoch + 1) * (count // 100)]])
        places = place_to_example(9, epoch, np.arange(len(own)), count)
        np.testing.assert_array_equal(own, images[places])
    assert elements[0]["image"].dtype == np.float32 and elements[0]["label"].dtype == np.int32
    assert {name: elements[0][name].shape for name in ("label", "mask", "weight", "batch_examples")} == {
        "label": (100,),
        "mask": (100,),
        "weight": (100,),
        "batch_examples": (),
    }


@WAYS
@pytest.mark.parametrize("first", [1, 12, 13, 1_000_003])
def test_resuming_gives_what_going_on_would_have_given(digits: Manifest, data: DataSpec, first: int) -> None:
    data = replace(data, augment=EVERYTHING, remainder=Remainder.pad)
    before = training_dataset(digits, data, 0, BatchShape(96, 2, 2), range(2), 8, max(0, first - 3))
    resumed = training_dataset(digits, data, 0, BatchShape(96, 2, 2), range(2), 8, first)
    assert_equal(take(resumed, 30), take(before, 30 + 2 * min(first, 3))[2 * min(first, 3) :])


@WAYS
def test_resuming_reads_nothing_twice(digits: Manifest, data: DataSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    once = RecordReader.read
    monkeypatch.setattr(RecordReader, "read", lambda self, numbers: read.append(len(numbers)) or once(self, numbers))
    take(training_dataset(digits, data, 0, BatchShape(10), range(1), 8, 10**7), 1)
    assert sum(read) <= digits.splits["train"].num_examples


@WAYS
def test_replicas_and_workers_share_what_one_alone_would_see(digits: Manifest, data: DataSpec) -> None:
    """Law 2 with pixels: augmentation too belongs to the example, not to whoever draws it."""
    data = replace(data, augment=EVERYTHING)
    alone = take(training_dataset(digits, data, 3, BatchShape(32), range(1), 8), 3)
    both = take(training_dataset(digits, data, 3, BatchShape(32, 1, 2), range(2), 8), 6)
    second = take(training_dataset(digits, data, 3, BatchShape(32, 1, 2), range(1, 2), 8), 3)
    for step in range(3):
        together = np.concatenate([both[2 * step]["image"], both[2 * step + 1]["image"]])
        np.testing.assert_array_equal(together, alone[step]["image"])
    assert_equal(second, both[1::2])


def test_both_ways_of_reading_give_the_same_pixels(digits: Manifest) -> None:
    for augment in (AugmentSpec(), EVERYTHING, AugmentSpec(flip=True), AugmentSpec(pad_crop=3)):
        in_memory, streamed = (replace(data, augment=augment) for data in (IN_MEMORY, STREAMED))
        for size in (8, 13):
            one, other = (
                take(training_dataset(digits, data, 0, BatchShape(64), range(1), size, 17), 25)
                for data in (in_memory, streamed)
            )
            assert_equal(one, other)


def test_padded_batches_are_masked(digits: Manifest) -> None:
    data = replace(IN_MEMORY, remainder=Remainder.pad)
    count = digits.splits["train"].num_examples
    last = take(training_dataset(digits, data, 0, BatchShape(100), range(1), 8, count // 100), 1)[0]
    assert last["mask"].tolist() == [1.0] * (count % 100) + [0.0] * (100 - count % 100)
    assert last["batch_examples"] == count % 100 and np.isfinite(last["image"]).all()


def test_unshuffled_training_keeps_the_stored_order(digits: Manifest) -> None:
    data = replace(IN_MEMORY, shuffle=False)
    elements = take(training_dataset(digits, data, 0, BatchShape(100), range(1), 8, 12), 1)
    labels = [label for _, label in stored(digits, "train")][:100]
    assert elements[0]["label"].tolist() == labels


def test_a_batch_larger_than_the_split_is_refused(digits: Manifest) -> None:
    with pytest.raises(BadSpec, match=r"trainer\.global_batch_size=4000 - .*remainder=pad"):
        training_dataset(digits, IN_MEMORY, 0, BatchShape(4000), range(1), 8)
    with pytest.raises(BadSpec, match="no dev split - it has train, validation, test"):
        evaluation_dataset(digits, "dev", IN_MEMORY, BatchShape(10), range(1), 8)


def test_weights_come_with_their_examples(folder: Path, prepare_set: Prepare) -> None:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.jpg"))]
    rows = [f"{name},{name[:5]},train,{number / 8}" for number, name in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["path,label,split,weight", *rows, f"{names[0]},china,validation,1"]))
    manifest = prepare_set(name="csv", path=str(folder / "table.csv"))
    for data in (DataSpec(), DataSpec(memory_bytes=0)):
        element = take(training_dataset(manifest, data, 0, BatchShape(40), range(1), 16), 1)[0]
        assert sorted(element["weight"].tolist()) == [number / 8 for number in range(40)]
        assert all((weight >= 20 / 8) == bool(label) for weight, label in zip(element["weight"], element["label"]))


def test_photographs_are_resized_as_pillow_does(photographs: list[np.ndarray]) -> None:
    for side, tolerance in ((96, 1.0), (600, 1.5)):
        ours = resize(tf.constant(photographs[0]), side).numpy()
        theirs = Image.fromarray(photographs[0]).resize((side, side), Image.Resampling.BILINEAR)
        assert np.abs(ours - np.asarray(theirs, np.float32)).mean() < tolerance
    np.testing.assert_array_equal(resize(tf.constant(photographs[0][:64, :64]), 64), photographs[0][:64, :64])


@pytest.mark.parametrize(
    ("asked", "own", "smallest", "expected"),
    [
        (None, 224, 1, 8),
        (None, 4, 1, 4),
        (None, 299, 71, 71),
        (None, None, 1, 8),
        (None, None, 32, 32),
        (64, 224, 1, 64),
    ],
)
def test_the_size_of_images(digits: Manifest, asked: int | None, own: int | None, smallest: int, expected: int) -> None:
    model = ModelSpec(image_size=own, min_image_size=smallest)
    assert resolve_image_size(DataSpec(image_size=asked), model, digits) == expected


def test_sizes_that_cannot_be(digits: Manifest, folder: Path, prepare_set: Prepare) -> None:
    with pytest.raises(BadSpec, match=r"data\.image_size=16 - xception needs images of 71"):
        resolve_image_size(DataSpec(image_size=16), ModelSpec(name="xception", min_image_size=71), digits)
    with pytest.raises(BadSpec, match=r"data\.image_size=null - the stored images differ in size"):
        resolve_image_size(DataSpec(), ModelSpec(), prepare_set(name="folder", path=str(folder)))


# what is damaged


@pytest.fixture
def damaged(prepare_set: Prepare) -> Manifest:
    """A set of its own, to be damaged."""
    return prepare_set(name="digits", num_shards=2)


def first_shard(manifest: Manifest) -> Path:
    return Path(manifest.url, manifest.splits["train"].shards[0].name)


def test_a_flipped_bit_is_named(damaged: Manifest) -> None:
    path = first_shard(damaged)
    data = bytearray(path.read_bytes())
    offset, length = np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)[5].tolist()
    data[offset + length // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptRecord, match=rf"{path.name}: corrupt record 5 at byte {offset} - its checksum"):
        RecordReader(damaged, "train").read(np.arange(20))
    RecordReader(damaged, "train").read(np.array([4, 6]))
    for way in (IN_MEMORY, STREAMED):
        with pytest.raises(tf.errors.OpError, match=rf"{path.name}: corrupt record 5 at byte {offset}"):
            take(training_dataset(damaged, way, 0, BatchShape(50), range(1), 8), 30)


@WAYS
def test_corrupt_records_are_skipped_within_a_budget(damaged: Manifest, data: DataSpec) -> None:
    path = first_shard(damaged)
    stored, index = bytearray(path.read_bytes()), np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)
    for record in (5, 9):
        stored[int(index[record, 0]) + 20] ^= 1
    path.write_bytes(stored)
    data = replace(data, on_corrupt=BadRecord.skip, max_corrupt=2)
    elements = list(evaluation_dataset(damaged, "train", data, BatchShape(50), range(1), 8).as_numpy_iterator())
    masks = np.concatenate([element["mask"] for element in elements])
    assert np.flatnonzero(masks[: damaged.splits["train"].num_examples] == 0).tolist() == [5, 9]
    again = training_dataset(damaged, data, 0, BatchShape(50), range(1), 8)
    assert sum(50 - element["mask"].sum() for element in take(again, 50)) == 4  # two epochs
    with pytest.raises(tf.errors.OpError, match="corrupt record 9 "):
        too_many = replace(data, max_corrupt=1)
        list(evaluation_dataset(damaged, "train", too_many, BatchShape(50), range(1), 8))


def test_offsets_are_mapped_and_not_read(digits: Manifest) -> None:
    """However many records a shard has, only the pages of its index that are asked for take up memory."""
    with NearShards(open_store(digits.url), digits.splits["train"].shards).open(2) as shard:
        below: object = shard.places
        while isinstance(below, np.ndarray):
            below = below.base
        assert isinstance(below, mmap.mmap) and len(below) == 16 * len(shard.places)


def test_missing_and_cut_shards_are_named(damaged: Manifest) -> None:
    path = first_shard(damaged)
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(CorruptRecord, match=rf"{path.name}: has {len(data) - 10} bytes, the manifest says {len(data)}"):
        RecordReader(damaged, "train")
    path.unlink()
    with pytest.raises(CorruptRecord, match=rf"{path.name}: the shard is missing"):
        RecordReader(damaged, "train")


def test_a_damaged_index_is_named(damaged: Manifest) -> None:
    path = Path(f"{first_shard(damaged)}.index")
    index = np.fromfile(path, "<u8").reshape(-1, 2)
    index[3, 0] += 1
    index[4, 1] = 10**12
    index.tofile(path)
    with pytest.raises(CorruptRecord, match=rf"{path.name}: the index is damaged - its checksum"):
        RecordReader(damaged, "train").read(np.array([0]))
    damaged.splits["train"].shards[0] = replace(damaged.splits["train"].shards[0], index_crc32c=0)  # nobody knew it
    for record in (3, 4):
        with pytest.raises(CorruptRecord, match=f"corrupt record {record} "):
            RecordReader(damaged, "train").read(np.array([record]))
    path.unlink()
    with pytest.raises(CorruptRecord, match=rf"{path.name}: the index is missing"):
        RecordReader(damaged, "train")
