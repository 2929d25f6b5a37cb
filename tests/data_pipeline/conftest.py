"""Real images to prepare: digits, photographs cut from two sample pictures, and CIFAR-10 if it is there."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from conf.schema import DataSpec, JobSpec, StorageSpec
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.prepare import prepare
from storage.store import open_store
from tests.storage.conftest import gcs_server, gcs_url, proxy  # noqa: F401
from tests.storage.fault_proxy import FaultProxy
from tests.storage.gcs_server import BUCKET

Prepare = Callable[..., Manifest]


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Two photographs, 427x640 pixels."""
    return list(load_sample_images().images)


@pytest.fixture(scope="session")
def cut_outs(photographs: list[np.ndarray]) -> dict[str, list[Image.Image]]:
    """Forty different cut-outs, of different sizes, of two classes."""
    random = np.random.default_rng(0)
    found: dict[str, list[Image.Image]] = {}
    for name, photograph in zip(("china", "flower"), photographs, strict=True):
        for _ in range(20):
            height, width = random.integers(40, 90, 2)
            y, x = random.integers(0, 427 - height), random.integers(0, 640 - width)
            found.setdefault(name, []).append(Image.fromarray(photograph[y : y + height, x : x + width]))
    return found


@pytest.fixture
def folder(tmp_path: Path, cut_outs: dict[str, list[Image.Image]]) -> Path:
    """A flat folder of two classes with twenty JPEGs each."""
    root = tmp_path / "photographs"
    for name, images in cut_outs.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(root / name / f"{number:02d}.jpg", quality=95)
    return root


@pytest.fixture
def prepare_set(tmp_path: Path) -> Prepare:
    """Prepares what is asked below a temporary storage root."""

    def prepared(seed: int = 0, **data: object) -> Manifest:
        storage = StorageSpec(root=str(tmp_path / "runs"))
        manifest = prepare(JobSpec(seed=seed, data=DataSpec(**data), storage=storage))  # type: ignore[arg-type]
        assert manifest is not None
        return manifest

    return prepared


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The digits, prepared in three training shards."""
    storage = StorageSpec(root=str(tmp_path_factory.mktemp("digits")))
    manifest = prepare(JobSpec(data=DataSpec(num_shards=3), storage=storage))
    assert manifest is not None
    return manifest


@pytest.fixture(scope="session")
def cifar10_folder(repository: Path) -> Path:
    """Twelve thousand JPEGs of CIFAR-10 in train/ and test/, shared beside the repository."""
    path = repository.parent / "shared" / "data" / "cifar10"
    if not path.is_dir():
        pytest.skip("../shared/data/cifar10 is not on this machine")
    return path


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The digits in eight training shards on this disk."""
    storage = StorageSpec(root=str(tmp_path_factory.mktemp("near")))
    manifest = prepare(JobSpec(data=DataSpec(num_shards=8), storage=storage))
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def far_url(near: Manifest, gcs_server: str) -> Iterator[str]:  # noqa: F811
    """The same in a bucket, for tests that leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
        yield upload(near, f"gs://{BUCKET}/digits-{Path(near.url).parents[2].name}")


@pytest.fixture
def far(far_url: str, proxy: FaultProxy) -> Manifest:  # noqa: F811
    """The manifest of that set, read through the proxy."""
    manifest = load_manifest(far_url)
    proxy.seen.clear()
    return manifest


@pytest.fixture
def own_far(near: Manifest, gcs_url: str, proxy: FaultProxy) -> Manifest:  # noqa: F811
    """A set in a bucket that a test may damage."""
    return load_manifest(upload(near, gcs_url))


def upload(near: Manifest, url: str) -> str:
    """Copy a prepared set to a bucket."""
    store = open_store(url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.put_file(path.name, path), sorted(Path(near.url).iterdir())))
    return url
