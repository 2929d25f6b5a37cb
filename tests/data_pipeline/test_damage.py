"""Records that are whole and even so no examples: named with shard, record and offset, or left out within a budget."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import AugmentSpec, BadRecord, DataSpec
from data_pipeline import damage
from data_pipeline.damage import named
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import evaluation_dataset, training_dataset
from data_pipeline.reader import Skipped
from data_pipeline.records import CorruptRecord
from tests.data_pipeline.damaging import Changes, cut_image, labelled, no_image, rewritten

Prepare = Callable[..., Manifest]
Element = dict[str, np.ndarray]

IN_MEMORY, STREAMED = DataSpec(), DataSpec(memory_bytes=0)
CROPPED = DataSpec(augment=AugmentSpec(crop_min_area=0.5))
WAYS = pytest.mark.parametrize("data", [IN_MEMORY, STREAMED, CROPPED], ids=["in_memory", "streamed", "cropped"])
_NO_IMAGE, _LABEL = "its image cannot be decoded", "its label is {}, and there are 2 classes"
FAULTS = pytest.mark.parametrize(
    ("data", "change", "reason"),
    [
        pytest.param(IN_MEMORY, no_image, _NO_IMAGE, id="in memory, no image"),
        pytest.param(IN_MEMORY, labelled(-1), _LABEL.format(-1), id="in memory, negative label"),
        pytest.param(STREAMED, cut_image, _NO_IMAGE, id="streamed, cut image"),
        pytest.param(STREAMED, labelled(2), _LABEL.format(2), id="streamed, label too large"),
        pytest.param(CROPPED, cut_image, _NO_IMAGE, id="cropped, cut image"),
    ],
)


@pytest.fixture(autouse=True)
def no_other_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the readers of one set; this process those of all tests."""
    monkeypatch.setattr(damage, "_watched", weakref.WeakSet())


@pytest.fixture
def photographs_set(folder: Path, prepare_set: Prepare) -> Manifest:
    """Real JPEGs: 28 to train on, in two shards."""
    return prepare_set(name="folder", path=str(folder), num_shards=2)


def an_epoch(manifest: Manifest, data: DataSpec, told: list[Skipped] | None = None, **how: object) -> list[Element]:
    shape, replicas = how.get("shape", BatchShape(7)), how.get("replicas", range(1))
    dataset = training_dataset(manifest, data, 0, shape, replicas, 32, 0, told.append if told is not None else None)
    return list(dataset.take(4 * len(replicas)).as_numpy_iterator())


def damaged(manifest: Manifest, changes: Changes) -> tuple[Manifest, str, list[int]]:
    """The set with some records of its first training shard changed; the shard's name, and its offsets now."""
    found = rewritten(manifest, "train", changes)
    name = found.splits["train"].shards[0].name
    return found, name, np.fromfile(Path(found.url, f"{name}.index"), "<u8").reshape(-1, 2)[:, 0].tolist()


@FAULTS
def test_what_is_no_example_is_named(
    photographs_set: Manifest, data: DataSpec, change: Callable[..., object], reason: str
) -> None:
    manifest, shard, offsets = damaged(photographs_set, {3: change})
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        an_epoch(manifest, data)
    error = named(raised.value)
    assert isinstance(error, CorruptRecord)
    assert f"{manifest.url}/{shard}: corrupt record 3 at byte {offsets[3]} - {reason}" in str(error)


def test_an_error_that_is_no_record_s_is_left_alone(digits: Manifest) -> None:
    list(training_dataset(digits, STREAMED, 0, BatchShape(16), range(1), 8).take(2))
    error = tf.errors.InvalidArgumentError(None, None, "shapes do not match")
    assert named(error) is error
    assert named(other := ValueError("x")) is other


@FAULTS
def test_what_is_no_example_weighs_nothing(
    photographs_set: Manifest, data: DataSpec, change: Callable[..., object], reason: str
) -> None:
    """Everything else is what it was without the damage."""
    before = an_epoch(photographs_set, data)
    manifest, shard, offsets = damaged(photographs_set, {3: change, 6: change})
    told: list[Skipped] = []
    after = an_epoch(manifest, replace(data, on_corrupt=BadRecord.skip, max_corrupt=2), told)
    assert sorted((skipped.shard, skipped.record) for skipped in told) == [(shard, 3), (shard, 6)]
    assert all(f"at byte {offsets[skipped.record]} - {reason}" in skipped.reason for skipped in told)
    masks, labels = (np.concatenate([element[name] for element in after]) for name in ("mask", "label"))
    assert (masks == 0).sum() == 2 and set(labels) <= {0, 1}
    for one, other in zip(before, after, strict=True):
        kept = other["mask"] == 1
        for name in ("image", "label", "weight"):
            np.testing.assert_array_equal(one[name][kept], other[name][kept])
        assert one["batch_examples"] == other["batch_examples"] and np.isfinite(other["image"]).all()


@WAYS
def test_more_than_the_budget_end_the_job_by_name(photographs_set: Manifest, data: DataSpec) -> None:
    manifest, shard, _ = damaged(photographs_set, {3: no_image, 6: labelled(9)})
    with pytest.raises(tf.errors.OpError, match=rf"CorruptRecord: .*{shard}: corrupt record [36] at byte \d+ - its "):
        an_epoch(manifest, replace(data, on_corrupt=BadRecord.skip, max_corrupt=1))


@WAYS
def test_workers_stay_in_step(photographs_set: Manifest, data: DataSpec) -> None:
    """Two workers with half of every batch each: as many elements, and together what one alone has."""
    manifest, _, _ = damaged(photographs_set, {0: no_image, 1: cut_image, 2: labelled(5)})
    data = replace(data, on_corrupt=BadRecord.skip)
    alone = an_epoch(manifest, data, shape=BatchShape(14))
    workers = [
        an_epoch(manifest, data, shape=BatchShape(14, 1, 2), replicas=range(rank, rank + 1)) for rank in range(2)
    ]
    for step, whole in enumerate(alone):
        for name in ("image", "label", "mask", "weight"):
            together = np.concatenate([worker[step][name] for worker in workers])
            np.testing.assert_array_equal(together, whole[name])


def test_an_evaluation_leaves_them_out(photographs_set: Manifest) -> None:
    manifest = rewritten(photographs_set, "validation", {1: cut_image})
    data = replace(STREAMED, on_corrupt=BadRecord.skip)
    elements = evaluation_dataset(manifest, "validation", data, BatchShape(4), range(1), 32).as_numpy_iterator()
    assert np.concatenate([element["mask"] for element in elements]).tolist() == [1, 0, *[1] * 6]


def test_a_missing_shard_takes_from_the_budget(photographs_set: Manifest) -> None:
    shard = photographs_set.splits["train"].shards[1]
    Path(photographs_set.url, shard.name).unlink()
    told: list[Skipped] = []
    data = replace(STREAMED, on_corrupt=BadRecord.skip, max_corrupt=shard.num_examples)
    masks = np.concatenate([element["mask"] for element in an_epoch(photographs_set, data, told)])
    assert (masks == 0).sum() == len(told) == shard.num_examples
    with pytest.raises(tf.errors.OpError, match=rf"CorruptRecord: .*{shard.name}: the shard is missing"):
        an_epoch(photographs_set, replace(data, max_corrupt=shard.num_examples - 1))


def test_of_a_cut_shard_what_is_left_is_used(photographs_set: Manifest) -> None:
    """What lies behind the cut takes from the budget, record by record."""
    shard = photographs_set.splits["train"].shards[1]
    path = Path(photographs_set.url, shard.name)
    offset = np.fromfile(f"{path}.index", "<u8").reshape(-1, 2)[-2, 0]
    path.write_bytes(path.read_bytes()[: int(offset) + 10])
    told: list[Skipped] = []
    data = replace(STREAMED, on_corrupt=BadRecord.skip, max_corrupt=2)
    masks = np.concatenate([element["mask"] for element in an_epoch(photographs_set, data, told)])
    records = [shard.num_examples - 2, shard.num_examples - 1]
    assert (masks == 0).sum() == 2 and sorted(skipped.record for skipped in told) == records
    with pytest.raises(tf.errors.OpError, match=rf"CorruptRecord: .*{shard.name}: corrupt record \d+ at byte \d+"):
        an_epoch(photographs_set, replace(data, max_corrupt=1))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["splits", "train", "num_examples"], 29, "the shards of train do not add up to 29"),
        (["splits", "train", "shards", 0, "num_examples"], 15, "do not add up"),
        (["splits", "train", "shards", 1, "class_counts"], [9, 9], "train-00001-of-00002.tfrecord: its class_counts"),
        (["splits", "train", "shards", 0, "class_counts"], [14], "train-00000-of-00002.tfrecord: its class_counts"),
        (["splits", "train", "class_counts"], [1, 27], "the class_counts of the shards of train do not add up"),
        (["splits", "train", "shards", 0, "num_bytes"], 100, "train-00000-of-00002.tfrecord: 100 bytes cannot hold"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    photographs_set: Manifest, path: list[str | int], value: object, words: str
) -> None:
    file = Path(photographs_set.url, "manifest.json")
    stored = inner = json.loads(file.read_text())
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(stored))
    with pytest.raises(BadSpec, match=words):
        load_manifest(photographs_set.url)
