"""SIGKILL at every single storage operation of a preparation, on a disk; at some of them on a GCS server."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.gcs_server import BUCKET, running_gcs_server


def killed(root: str, every: int, environment: dict[str, str], repository: Path) -> list[dict]:
    """What became of preparations that were killed, each `every` operations later than the one before."""
    command = [sys.executable, "-m", "tests.data_pipeline.killed_preparations", root, str(every)]
    environ = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=repository, env=environ, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout))


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("where", "every", "fewest"), [("disk", 1, 100), ("gcs", 8, 10)], ids=["disk", "gcs"])
def test_whenever_it_is_killed_nothing_looks_prepared_and_the_next_one_ends_with_the_same_bytes(
    tmp_path: Path, repository: Path, where: str, every: int, fewest: int
) -> None:
    if where == "disk":
        told = killed(str(tmp_path), every, {}, repository)
    else:
        with running_gcs_server(tmp_path) as server:
            root = f"gs://{BUCKET}/{secrets.token_hex(4)}"
            told = killed(root, every, {"STORAGE_EMULATOR_HOST": server}, repository)
    assert len(told) >= fewest, "fewer operations than a preparation has"
    seen = [each["looks_prepared"] for each in told]
    assert seen == sorted(seen), "it looks prepared from its manifest on"
    assert seen.count(False) > len(seen) // 2 and seen[-1]
    assert all(each["was_right"] for each in told if each["looks_prepared"])
    assert all(each["ends_right"] for each in told)
    left = {name for each in told for name in each["left"]}
    assert all(name.endswith(".note.json") for name in left), "notes of a set that was whole already"
