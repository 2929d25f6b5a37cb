"""job=tensorboard before it starts anything; tests/end_to_end/test_far_job.py looks at what it shows."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import BadSpec
from launcher.board import Board, NoBoard, free_port
from launcher.command import run
from launcher.mirror import run_ids
from storage.run_dir import RunDir
from storage.store import open_store


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command says when it refuses."""
    assert run(["job=tensorboard", *words]) == 78
    return capsys.readouterr().err


def test_what_cannot_be_shown_is_refused_with_a_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = f"storage.root={tmp_path}"
    assert "storage.root=" in (said := refused(capsys, root)) and "there is no run here" in said
    assert "there is no such run" in refused(capsys, root, "run_id=x")
    RunDir(str(tmp_path), "x").store.put("job.yaml", b"job: train\nrun_id: x\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, root, f"tensorboard.port={port}")
    assert f"tensorboard.port={port} - something else listens on this port" in said
    assert int(said.rpartition("tensorboard.port=")[2].partition(",")[0]) != port
    for port in (-1, 65536):
        assert "a port is a number from 1 to 65535" in refused(capsys, root, f"tensorboard.port={port}")


def test_the_plan_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunDir(str(tmp_path), "x").store.put("job.yaml", b"job: train\nrun_id: x\n")
    assert run(["job=tensorboard", f"storage.root={tmp_path}", "dry_run=true"]) == 0
    assert f"would show the curves of all runs in {tmp_path}" in capsys.readouterr().out


def test_prepared_data_and_contact_sheets_are_no_runs(tmp_path: Path) -> None:
    for name in ("_data/digits/manifest.json", "inspect-digits/table.txt", "a/job.yaml", "b/tensorboard/train/x"):
        open_store(str(tmp_path)).put(name, b"x")
    assert list(run_ids(open_store(str(tmp_path)))) == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("ERROR: TensorBoard could not bind to port 6006, it was already in use", BadSpec),
        ("ModuleNotFoundError: No module named 'tensorboard'", NoBoard),
    ],
)
def test_a_tensorboard_that_ends_is_explained(tmp_path: Path, said: str, error: type[Exception]) -> None:
    """The port may be taken between our look and its own; it then says so in these words."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        line = f"import sys; sys.stderr.write({said!r}); sys.exit(1)"
        process = subprocess.Popen([sys.executable, "-c", line], stderr=output)
        process.wait()
    with pytest.raises(error, match=r"tensorboard\.port=6006|No module named"):
        Board(process, 6006, log).check()


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port(0)
    assert free_port(port) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(BadSpec, match=rf"tensorboard\.port={port} - .* - tensorboard\.port=\d+, or 0"):
            free_port(port)
