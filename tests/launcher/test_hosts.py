"""A preparation on a cluster of two hosts: two raylets on loopback, each with cores of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.ray_cluster import ray_cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def address() -> Iterator[str]:
    """Two hosts, as far as Ray can tell."""
    with ray_cluster(2) as cluster:
        cluster.add_node(num_cpus=2)
        yield cluster.address


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Forty cut-outs of two photographs."""
    root = tmp_path / "photographs"
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(20):
            y, x = 60 * (number // 5), 80 * (number % 5)
            Image.fromarray(pixels[y : y + 60, x : x + 80]).save(root / name / f"{number:02d}.png")
    return root


def prepared(photographs: Path, out: Path, *words: str) -> tuple[int, str]:
    """`job=prepare` of them into five shards a split: its exit code and what it said."""
    data = ["data=folder", f"data.path={photographs}", "data.num_shards=5", f"data.out={out}"]
    line = [sys.executable, "launcher/run.py", "job=prepare", *data, f"storage.root={out.parent}/runs", "run_id=x"]
    done = subprocess.run([*line, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_hosts_prepare_together_and_fail_together(address: str, photographs: Path, tmp_path: Path) -> None:
    picture = photographs / "china" / "07.png"
    image = picture.read_bytes()
    picture.write_bytes(b"no image")
    code, said = prepared(photographs, tmp_path / "out", f"cluster.address={address}")
    assert (code, said.count("china/07.png - cannot be read as an image")) == (78, 1), said
    logs = sorted(path.name for path in tmp_path.glob("runs/x/attempts/01/*.log"))
    assert logs == ["rank_0.log", "rank_1.log"]

    picture.write_bytes(image)
    code, said = prepared(photographs, tmp_path / "out", f"cluster.address={address}")
    assert (code, "classes        2, each with 14 training examples" in said) == (0, True), said
    code, said = prepared(photographs, tmp_path / "alone")
    assert (code, contents(tmp_path / "out")) == (0, contents(tmp_path / "alone")), said
