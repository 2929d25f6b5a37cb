"""The source that the README shows is a source."""

import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.errors import BadSpec
from conf.schema import DataSpec, JobSpec
from data_pipeline import sources
from data_pipeline.prepare import prepare
from data_pipeline.reader import RecordReader
from data_pipeline.records import decode


@pytest.fixture
def zipped(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`data.name=zipped` is what the README shows, as if its text were a file in data_pipeline/sources."""
    shown = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    (text,) = [block for block in shown if "def examples" in block]
    assert len([line for line in text.splitlines() if line]) <= 20
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "zipped.py").write_text(text)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "sources")])
    yield
    sys.modules.pop("data_pipeline.sources.zipped", None)


def test_the_source_in_the_readme(zipped: None, tmp_path: Path, cut_outs: dict[str, list[Image.Image]]) -> None:
    path, files = tmp_path / "images.zip", {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, images in cut_outs.items():
            for number, image in enumerate(images):
                out = io.BytesIO()
                image.save(out, "JPEG")
                files[f"{name}/{number:02d}.jpg"] = out.getvalue()
                archive.writestr(f"{name}/{number:02d}.jpg", out.getvalue())
    job = JobSpec(data=DataSpec(name="zipped", path=str(path), out=str(tmp_path / "out")))
    manifest = prepare(job)
    assert manifest is not None and manifest.classes == ["china", "flower"]
    seen = {}
    for split in manifest.splits:
        reader = RecordReader(manifest, split)
        for record in map(decode, reader.read(np.arange(reader.num_examples))):
            seen[record.key] = record.encoded
            assert manifest.classes[record.label] == record.key.partition("/")[0]
    assert seen == files
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("china/more.jpg", files["china/00.jpg"])
    with pytest.raises(BadSpec, match=r"data\.path=.* - it has changed .*1 file changed \(images\.zip\)"):
        prepare(job)
