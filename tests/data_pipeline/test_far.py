"""Training on a set in a bucket: every example arrives once, unharmed, or the job says why not."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import DataSpec, Order, Remainder
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import BatchShape, Blocks, steps_per_epoch
from data_pipeline.pipeline import training_dataset
from data_pipeline.reader import RecordReader
from storage import gcs_retries
from tests.data_pipeline.conftest import upload
from tests.storage.fault_proxy import Fault, FaultProxy
from tests.storage.gcs_server import BUCKET, running_gcs_server

BATCH = 25
CACHE_BYTES = 130_000  # less than half of the training split


@pytest.fixture
def data(tmp_path: Path) -> DataSpec:
    """Streamed through a small cache."""
    return DataSpec(
        channels=1, memory_bytes=0, cache_dir=str(tmp_path), cache_bytes=CACHE_BYTES, remainder=Remainder.pad
    )


def an_epoch(manifest: Manifest, data: DataSpec, first: int = 0, epochs: int = 1) -> Iterator[dict[str, np.ndarray]]:
    steps = epochs * steps_per_epoch(manifest.splits["train"].num_examples, BATCH, data.remainder)
    dataset = training_dataset(manifest, data, 7, BatchShape(BATCH), range(1), 8, first)
    return dataset.take(steps - first).as_numpy_iterator()


def prepared_in_order(near: Manifest, data: DataSpec) -> list[np.ndarray]:
    """Images of the first epoch by the documented order, read without a cache."""
    shards = near.splits["train"].shards
    counts, sizes = [s.num_examples for s in shards], [s.num_bytes + 16 * s.num_examples for s in shards]
    stored = dataclasses.replace(data, shuffle=False)
    images = [image for element in an_epoch(near, stored) for image in element["image"][element["mask"] == 1]]
    places = Blocks(counts, sizes, CACHE_BYTES // 2).examples(7, 0, np.arange(len(images)))
    return [images[number] for number in places]


def assert_arrived(elements: list[dict[str, np.ndarray]], expected: list[np.ndarray]) -> None:
    found = [image for element in elements for image in element["image"][element["mask"] == 1]]
    np.testing.assert_array_equal(found, expected)


def test_an_epoch_under_faults_is_the_epoch_that_was_prepared(
    near: Manifest, far: Manifest, data: DataSpec, proxy: FaultProxy
) -> None:
    proxy.faults = [
        Fault(kind, "GET", "alt=media", skip=2 + place)
        for place, kind in enumerate(["status", "reset", "cut", "flip"] * 2)
    ]
    assert_arrived(list(an_epoch(far, data)), prepared_in_order(near, data))
    assert all(fault.uses == 0 for fault in proxy.faults), "a fault was never met"


def test_resuming_in_an_epoch_fetches_only_what_is_left(
    near: Manifest, far: Manifest, data: DataSpec, proxy: FaultProxy
) -> None:
    first = 40  # of 51
    assert_arrived(list(an_epoch(far, data, first)), prepared_in_order(near, data)[first * BATCH :])
    fetched = {line.partition("train-")[2][:5] for line in proxy.seen if "tfrecord?" in line}
    # Two groups of two shards are left, and what is fetched ahead for the next epoch.
    assert len(fetched) < 8


def test_a_server_that_is_killed_and_restarted_in_an_epoch(
    near: Manifest, data: DataSpec, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs_retries, "BACK_OFF_S", 0.2)
    with running_gcs_server(tmp_path / "server") as url:
        proxy.upstream = url.removeprefix("http://")
        manifest = load_manifest(upload(near, f"gs://{BUCKET}/set"))
        iterator, proxy.faults = an_epoch(manifest, data), []
        elements = [next(iterator)]
    seen = len(proxy.seen)
    restarted = threading.Event()

    def restart() -> None:
        while len(proxy.seen) < seen + 3:  # somebody has asked in vain
            time.sleep(0.02)
        with running_gcs_server(tmp_path / "server") as url:
            proxy.upstream = url.removeprefix("http://")
            restarted.set()
            over.wait(60)

    over = threading.Event()
    thread = threading.Thread(target=restart)
    thread.start()
    try:
        elements += list(iterator)
    finally:
        over.set()
        thread.join()
    assert restarted.is_set()
    assert_arrived(elements, prepared_in_order(near, data))


def test_a_server_that_stays_away_ends_the_job_with_the_name(far: Manifest, data: DataSpec, proxy: FaultProxy) -> None:
    proxy.faults = [Fault("reset", "GET", r"train-00005-of-00008\.tfrecord\?", uses=-1)]
    with pytest.raises(tf.errors.OpError, match=rf"StoreAway: {far.url}/train-00005-of-00008\.tfrecord: cannot read"):
        list(an_epoch(far, data))


def test_the_order_is_decided_by_job_and_manifest(near: Manifest, far: Manifest, data: DataSpec) -> None:
    """auto: blocks where the set is far away and too large for the cache; the same order for the near copy if asked."""
    roomy = dataclasses.replace(data, cache_bytes=1 << 30)
    in_full = [element["label"].tolist() for element in an_epoch(far, roomy)]
    assert in_full == [element["label"].tolist() for element in an_epoch(near, data)]
    in_blocks = [element["label"].tolist() for element in an_epoch(far, data)]
    asked = dataclasses.replace(data, order=Order.blocks)
    assert in_blocks == [element["label"].tolist() for element in an_epoch(near, asked)] != in_full
    with pytest.raises(
        BadSpec, match=r"data\.order=full - the training split takes up \d+ bytes, .* data\.order=blocks"
    ):
        an_epoch(far, dataclasses.replace(data, order=Order.full))


@pytest.mark.parametrize("first", [0, 10**7 + 3])
def test_beginning_anywhere_reads_as_much(
    near: Manifest, data: DataSpec, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """O(1) resume: what is read for a step does not depend on which it is. Counted record by record."""
    for order in (Order.full, Order.blocks):
        read: list[int] = []
        count_records(monkeypatch, read)
        dataset = training_dataset(near, dataclasses.replace(data, order=order), 7, BatchShape(4), range(1), 8, first)
        list(dataset.take(1))
        # A step, and the few that are fetched ahead of it: at most 16 elements, and what the parallel stages hold.
        assert 4 <= sum(read) <= 4 * 40
        monkeypatch.undo()


def count_records(monkeypatch: pytest.MonkeyPatch, read: list[int]) -> None:
    once: Callable[..., list[bytes]] = RecordReader.read
    monkeypatch.setattr(RecordReader, "read", lambda self, numbers: read.append(len(numbers)) or once(self, numbers))
