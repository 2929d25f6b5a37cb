"""The list of source files beside a prepared set, against the files themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.schema import BadFile, DataSpec, JobSpec, SplitSpec
from data_pipeline.prepare import prepare
from storage.source_files import SOURCE_FILES, content_mark


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of six JPEGs each, some of them bad, a picture of no class, and one outside of the folder."""
    random = np.random.default_rng(5)
    for name in [*(f"in/{label}/{number}.jpg" for label in "ab" for number in range(6)), "in/alone.png", "out/far.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / name)
    for name in ("a/0", "a/3", "b/1"):
        (tmp_path / f"in/{name}.jpg").write_bytes(b"no image")
    return tmp_path


def listed(data: DataSpec, out: Path) -> list[list]:
    data.out, data.on_bad_file, data.num_shards, data.split = str(out), BadFile.skip, 1, SplitSpec(1.0, 0.0, 0.0)
    assert prepare(JobSpec(data=data)) is not None
    return [json.loads(line) for line in (out / SOURCE_FILES).read_bytes().splitlines()]


def expected(root: Path, path: Path, is_read: bool = True) -> list:
    state, name = path.stat(), str(path).removeprefix(f"{root}/")
    return [name, state.st_size, state.st_mtime_ns, content_mark(path.read_bytes()) if is_read else None]


def test_every_file_of_a_folder_is_listed_and_those_that_were_read_are_marked(pictures: Path) -> None:
    root = pictures / "in"
    unread = {root / name for name in ("a/0.jpg", "a/3.jpg", "b/1.jpg", "alone.png")}
    files = sorted([*root.glob("*/*.jpg"), root / "alone.png"])
    lines = [expected(root, path, path not in unread) for path in files]
    assert len(lines) == 13 and listed(DataSpec(name="folder", path=str(root)), pictures / "out") == lines


def test_a_table_is_listed_with_its_files_wherever_they_lie(pictures: Path) -> None:
    table = pictures / "in" / "table.csv"
    files = sorted([*(pictures / "in").glob("*/[45].jpg"), pictures / "out/far.jpg"])
    table.write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in files))
    lines = [expected(table.parent, path) for path in files] + [expected(table.parent, table, False)]
    assert listed(DataSpec(name="csv", path=str(table)), pictures / "set") == sorted(lines)
