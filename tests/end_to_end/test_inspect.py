"""`job=prepare` into a bucket and `job=inspect` of it, as typed, against a real GCS server."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from tests.storage.gcs_server import BUCKET, running_gcs_server


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket; where its objects lie."""
    with running_gcs_server(tmp_path / "gcs") as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield tmp_path / "gcs" / BUCKET


def test_a_set_in_a_bucket_is_prepared_and_shown(convoy, bucket):
    said = convoy.run("job=prepare", "data=digits", f"data.out=gs://{BUCKET}/digits")
    assert f"prepared digits: gs://{BUCKET}/digits" in said
    assert not list(convoy.runs.iterdir())  # nothing but the set is left
    words = ["storage=gcs", f"storage.root=gs://{BUCKET}/runs", f"data.path=gs://{BUCKET}/digits"]
    said = convoy.run("job=inspect", *words, "data.augment.flip=true", "inspect.examples=4", "inspect.rows=5")
    folder = next((bucket / "runs").glob("inspect-digits-*"))
    assert f"contact sheets in gs://{BUCKET}/runs/{folder.name}/" in said
    assert "train          1,259       1" in said and "\n3        128" in said
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".png") == [
        "augmented.png",
        *(f"class_{label}_{label}.png" for label in range(10)),
    ]
    sheet = np.asarray(Image.open(io.BytesIO((folder / "augmented.png").read_bytes())))
    assert sheet.std() > 50  # digits, not paper
    assert "1,259" in (folder / "table.txt").read_text()


def test_a_preparation_that_fails_keeps_its_log(convoy, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").write_bytes(b"no image")
    said = convoy.run("job=prepare", "run_id=failing", "data=folder", f"data.path={tmp_path}/photos", expect=78)
    assert "cannot be read as an image" in said
    assert "cannot be read as an image" in (convoy.runs / "failing/attempts/01/rank_0.log").read_text()
    assert os.listdir(convoy.runs / "failing/attempts") == ["01"]
