"""A run whose disk fills up: one sentence, 78, and what was saved before stays whole."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from storage.run_dir import RunDir
from trainer.checkpoints import newest_whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_what_was_saved_stays(convoy, small_disk):
    words = ["run_id=full", "trainer.checkpoint_every_steps=10", "trainer.keep_checkpoints=50"]
    said = replace(convoy, runs=small_disk).run(*words, expect=78)
    assert "the disk is full: free some space" in said and "Traceback" not in said
    found = newest_whole(RunDir(str(small_disk), "full"))
    assert found is not None and found.step >= 10 and found.broken == []
