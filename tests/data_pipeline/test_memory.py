"""What reading holds in memory: it does not grow with the epochs, and what is read ahead has a bound."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.schema import DataSpec, JobSpec, SplitSpec, StorageSpec
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset
from data_pipeline.prepare import prepare
from data_pipeline.reader import RecordReader
from tests.data_pipeline.conftest import upload

WARM_UP, EPOCHS = 4, 10
BATCH = 10
#: An epoch's JPEGs are 5 MB: who kept a fifth of what passes would be found.
GROWTH_BYTES = 5 << 20


#: Eight fetches at once with a claim, a file and a connection each, and as much again; an epoch opens over a hundred.
MOST_FILES = 60
#: Reads epochs of 40 examples from a bucket, and says after each what it holds: resident bytes and open files.
READ_EPOCHS = """
import json, os, sys, psutil
from conf.schema import AugmentSpec, DataSpec
from data_pipeline.manifest import load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset
url, folder, cache_bytes, epochs = json.loads(sys.argv[1])
augment = AugmentSpec(crop_min_area=0.3, flip=True)
data = DataSpec(memory_bytes=0, cache_dir=folder, cache_bytes=cache_bytes, augment=augment)
elements = iter(training_dataset(load_manifest(url), data, 0, BatchShape(10), range(1), 64))
process, resident, files = psutil.Process(), [], []
for _ in range(epochs):
    for _ in range(4):
        next(elements)
    resident.append(process.memory_info().rss)
    files.append(process.num_fds())
print(json.dumps([resident, files]), flush=True)
os._exit(0)
"""


@pytest.fixture
def large_jpegs(tmp_path: Path, photographs: list[np.ndarray]) -> Manifest:
    """Forty JPEGs of 400x600 pixels and about 130 KB, in eight shards."""
    random = np.random.default_rng(0)
    for number in range(40):
        photograph = photographs[number % 2]
        y, x = random.integers(0, 27), random.integers(0, 40)
        out = io.BytesIO()
        Image.fromarray(photograph[y : y + 400, x : x + 600]).save(out, "JPEG", quality=95)
        path = tmp_path / "photographs" / ("china", "flower")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())
    data = DataSpec(name="folder", path=str(tmp_path / "photographs"), num_shards=8, split=SplitSpec(1, 0, 0))
    manifest = prepare(JobSpec(data=data, storage=StorageSpec(root=str(tmp_path))))
    assert manifest is not None and manifest.splits["train"].num_examples == 40
    return manifest


def test_memory_does_not_grow_over_ten_epochs(
    large_jpegs: Manifest, gcs_server: str, gcs_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a cache of half the set, so that all of it is in play: fetches, eviction, offsets, reads, decoding."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    manifest = load_manifest(upload(large_jpegs, gcs_url))
    half = sum(shard.num_bytes for shard in manifest.splits["train"].shards) // 2
    # In a process of its own: what other tests have left behind is given back at any time.
    described = json.dumps([manifest.url, str(tmp_path), half, WARM_UP + EPOCHS])
    command = [sys.executable, "-c", READ_EPOCHS, described]
    ended = subprocess.run(
        command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    resident, files = json.loads(ended.stdout.splitlines()[-1])
    after = resident[WARM_UP:]
    growth = np.median(after[-3:]) - np.median(after[:3])
    assert growth < GROWTH_BYTES, [round(size / 2**20) for size in resident]
    assert max(files) < MOST_FILES, files


def test_what_is_read_ahead_has_a_bound(large_jpegs: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one batch of 31 MB a process reads on until 128 MB of batches are there, and no further."""
    read: list[int] = []
    once = RecordReader.read
    monkeypatch.setattr(RecordReader, "read", lambda self, numbers: read.append(len(numbers)) or once(self, numbers))
    side = 512
    elements = iter(training_dataset(large_jpegs, DataSpec(memory_bytes=0), 0, BatchShape(BATCH), range(1), side))
    next(elements)
    settled = -1
    while settled != len(read):  # nothing was read for a second
        settled = len(read)
        time.sleep(1.0)
    batch_bytes = 4 * BATCH * side * side * 3
    ahead = (128 << 20) // batch_bytes
    # Beside them: the one taken, two reads at once, those they wait in, and one decoded example a core in flight.
    assert 4 == ahead <= len(read) <= ahead + 6 + (os.cpu_count() or 1)
