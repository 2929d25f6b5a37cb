"""Pixels found in examples that were read together: against TensorFlow's parsing, other writers, and damage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from conf.schema import AugmentSpec, BadRecord, DataSpec, Encoding, SplitSpec
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import evaluation_dataset, training_dataset
from data_pipeline.raw_records import read_raw
from data_pipeline.reader import RecordReader
from data_pipeline.records import ENCODED, FORMAT, HEIGHT, LABEL, WEIGHT, WIDTH, CorruptRecord, Record
from tests.data_pipeline.conftest import upload
from tests.data_pipeline.damaging import cut_image, labelled, rewritten
from tests.storage.fault_proxy import Fault, FaultProxy

Prepare = Callable[..., Manifest]
CHANNELS, COUNT = 3, 60


@pytest.fixture
def pixels_set(prepare_set: Prepare, tmp_path: Path) -> Manifest:
    """Images of 1x1 to 89x69 with keys of 5 to 200 letters, weights, and labels of one byte and of two."""
    random, folder = np.random.default_rng(5), tmp_path / "pictures"
    folder.mkdir()
    lines = ["path,label,weight"]
    for number in range(COUNT):
        height, width = (1, 1) if number == 7 else random.integers(1, (90, 70))
        name = f"{'long_' * (number % 40)}{number}.png"
        (folder / name).write_bytes(tf.io.encode_png(random.integers(0, 256, (height, width, 3), np.uint8)).numpy())
        lines += [
            f"{name},class {label:03d},{(1.0, 0.25, 3.5)[number % 3]}" for label in range(number, 3 * COUNT, COUNT)
        ]
    (folder / "list.csv").write_text("\n".join(lines))
    asked = {"encoding": Encoding.pixels, "num_shards": 3, "split": SplitSpec(1.0, 0.0, 0.0)}
    return prepare_set(name="csv", path=str(folder / "list.csv"), **asked)


def parsed(manifest: Manifest) -> list[dict[str, tf.train.Feature]]:
    """Every example, as TensorFlow reads it."""
    paths = [str(Path(manifest.url, shard.name)) for shard in manifest.splits["train"].shards]
    return [
        tf.train.Example.FromString(serialized.numpy()).features.feature
        for serialized in tf.data.TFRecordDataset(paths)
    ]


def check(manifest: Manifest, examples: np.ndarray) -> None:
    """What is found is what TensorFlow finds."""
    expected = parsed(manifest)
    raw = read_raw(RecordReader(manifest, "train"), CHANNELS, examples)
    assert raw.data.dtype == np.uint8 and raw.begin.dtype == raw.height.dtype == np.int64
    for row, example in enumerate(examples):
        features, height, width = expected[example], raw.height[row], raw.width[row]
        begin = raw.begin[row]
        pixels = raw.data[begin : begin + height * width * CHANNELS].tobytes()
        assert pixels == features[ENCODED].bytes_list.value[0]
        assert [height, width] == [features[name].int64_list.value[0] for name in (HEIGHT, WIDTH)]
        assert raw.label[row] == features[LABEL].int64_list.value[0]
        assert raw.weight[row] == (features[WEIGHT].float_list.value[0] if WEIGHT in features else 1.0)


def test_everything_is_found_where_tensorflow_finds_it(pixels_set: Manifest) -> None:
    examples = parsed(pixels_set)
    assert {bool(WEIGHT in features) for features in examples} == {True, False}
    assert {features[LABEL].int64_list.value[0] > 127 for features in examples} == {True, False}
    everything = np.random.default_rng(0).permutation(len(examples))
    check(pixels_set, np.concatenate([everything, everything[:9]]))
    # More than the mean: the array has to grow, and more than once.
    largest = int(np.argmax([len(features[ENCODED].bytes_list.value[0]) for features in examples]))
    check(pixels_set, np.array([0] + 40 * [largest] + [1]))


def test_examples_of_other_writers_are_read_too(pixels_set: Manifest) -> None:
    """Another order of features, one that nobody knows, and a label that is not packed."""

    def otherwise(record: Record) -> bytes:
        def feature(**lists: object) -> bytes:
            return tf.train.Example(
                features=tf.train.Features(
                    feature={name: tf.train.Feature(**{kind: value}) for name, (kind, value) in lists.items()}
                )  # type: ignore[misc]
            ).SerializeToString()

        def numbers(*values: int) -> tuple[str, tf.train.Int64List]:
            return "int64_list", tf.train.Int64List(value=values)

        def strings(*values: bytes) -> tuple[str, tf.train.BytesList]:
            return "bytes_list", tf.train.BytesList(value=values)

        # Messages that are joined are one message.
        return (
            feature(**{WIDTH: numbers(record.width), "unknown": strings(b"\x0a\x0eexample/weight")})
            + feature(**{FORMAT: strings(b"raw"), ENCODED: strings(record.encoded)})
            + feature(**{HEIGHT: numbers(record.height), LABEL: numbers(record.label)})
        )

    changed = rewritten(pixels_set, "train", {0: otherwise, 3: otherwise})
    assert "unknown" in parsed(changed)[3]
    check(changed, np.arange(8))


def without_format(record: Record) -> Record:
    return record._replace(format="png")


def flat(record: Record) -> Record:
    return record._replace(width=0, encoded=b"")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (cut_image, "its pixels are not of the size it says"),
        (flat, "its pixels are not of the size it says"),
        (labelled(-1), "its label is -1, and there are 180 classes"),
        (labelled(180), "its label is 180, and there are 180 classes"),
        (without_format, "its image is png, where the set stores pixels"),
        (lambda record: b"\x0a\xff", "it is no example: the example ends inside a number"),
    ],
)
def test_what_is_no_example_is_named(pixels_set: Manifest, change: Callable[..., object], reason: str) -> None:
    manifest = rewritten(pixels_set, "train", {4: change})
    shard = manifest.splits["train"].shards[0].name
    offset = np.fromfile(Path(manifest.url, f"{shard}.index"), "<u8").reshape(-1, 2)[4, 0]
    with pytest.raises(CorruptRecord, match=rf"{shard}: corrupt record 4 at byte {offset} - {reason}"):
        read_raw(RecordReader(manifest, "train"), CHANNELS, np.arange(6))
    read_raw(RecordReader(manifest, "train"), CHANNELS, np.array([0, 1, 2, 3, 5]))


def test_damaged_bytes_are_named(pixels_set: Manifest) -> None:
    shard = pixels_set.splits["train"].shards[1]
    path, before = Path(pixels_set.url, shard.name), pixels_set.splits["train"].shards[0].num_examples
    offset, length = np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)[2].tolist()
    whole = path.read_bytes()
    for place in (offset, offset + length // 2, offset + length + 3):  # the last is of its checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        law = rf"{shard.name}: corrupt record 2 at byte {offset} - its checksum does not fit its bytes"
        with pytest.raises(CorruptRecord, match=law):
            read_raw(RecordReader(pixels_set, "train"), CHANNELS, np.array([0, before + 2]))
        data = DataSpec(memory_bytes=0)
        with pytest.raises(tf.errors.OpError, match=law):
            list(evaluation_dataset(pixels_set, "train", data, BatchShape(8), range(1), 16))


@pytest.mark.parametrize("augment", [AugmentSpec(), AugmentSpec(flip=True, crop_min_area=0.08)], ids=["plain", "crops"])
def test_batches_are_those_of_images_that_are_read_one_by_one(pixels_set: Manifest, augment: AugmentSpec) -> None:
    """Where records may be skipped, each example is parsed by TensorFlow and goes its own way."""

    def batches(data: DataSpec) -> list[dict[str, np.ndarray]]:
        dataset = training_dataset(pixels_set, data, 3, BatchShape(8), range(1), 24, 4)
        return list(dataset.take(6).as_numpy_iterator())

    data = DataSpec(augment=augment, memory_bytes=0)
    for one, other in zip(batches(data), batches(replace(data, on_corrupt=BadRecord.skip)), strict=True):
        assert one["image"].std() > 20
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])


def test_batches_of_a_bucket_are_those_too(
    pixels_set: Manifest, gcs_url: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Through a cache that holds less than the split, and a network that cuts and flips what it brings."""
    cache_bytes = sum(shard.num_bytes for shard in pixels_set.splits["train"].shards) * 3 // 4

    def batches(name: str, on_corrupt: BadRecord) -> list[dict[str, np.ndarray]]:
        cache = {"cache_dir": str(tmp_path / name), "cache_bytes": cache_bytes, "memory_bytes": 0}
        data = DataSpec(augment=AugmentSpec(flip=True, crop_min_area=0.08), on_corrupt=on_corrupt, **cache)
        dataset = training_dataset(far, data, 3, BatchShape(8), range(1), 24, 4)
        return list(dataset.take(30).as_numpy_iterator())

    far = load_manifest(upload(pixels_set, gcs_url))
    proxy.faults = [Fault(kind, "GET", "alt=media", skip=1 + 2 * place) for place, kind in enumerate(["cut", "flip"])]
    together = batches("together", BadRecord.stop)
    assert all(fault.uses == 0 for fault in proxy.faults), "a fault was never met"
    for one, other in zip(together, batches("singly", BadRecord.skip), strict=True):
        assert one["image"].std() > 20
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])
