"""Processes that share a preparation: the same bytes as one alone, and what happens when one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from conf.data_url import data_url
from conf.exit_codes import BAD_SPEC, DONE, FAILED
from conf.files import dump_job
from conf.schema import DataSpec, JobSpec, StorageSpec
from data_pipeline.parts import PartFailed, share
from data_pipeline.prepare import prepare
from data_pipeline.progress import Progress
from storage.data_dir import is_prepared

DATA = DataSpec(name="synthetic", num_examples=6000, num_shards=9, image_size=16)


def contents(url: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(url).iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a single process writes."""
    manifest = prepare(JobSpec(data=DATA, storage=StorageSpec(root=str(tmp_path_factory.mktemp("alone")))))
    assert manifest is not None
    return contents(manifest.url)


class Preparation:
    """`python -m data_pipeline.prepare` with a process for each of two cores."""

    def __init__(self, repository: Path, folder: Path, data: DataSpec = DATA):
        self.job = JobSpec(data=data, storage=StorageSpec(root=str(folder / "runs")))
        (folder / "job.yaml").write_text(dump_job(self.job))
        self.url = Path(data_url(self.job))
        self.line = [sys.executable, "-m", "data_pipeline.prepare", "--job", str(folder / "job.yaml")]
        self.repository = repository

    def run(self, *words: str) -> tuple[int, list[dict]]:
        environ = os.environ | {"CONVOY_PROGRESS_FD": "1"}
        done = subprocess.run(
            [*self.line, *words], cwd=self.repository, env=environ, stdout=subprocess.PIPE, check=False
        )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def start(self) -> psutil.Popen:
        """Begun, with all of its processes at work."""
        environ = os.environ | {"CONVOY_PROGRESS_FD": "1"}
        pipe = subprocess.PIPE
        process = psutil.Popen(self.line, cwd=self.repository, env=environ, stdout=pipe, stderr=subprocess.DEVNULL)
        while process.is_running() and (len(process.children()) < 2 or not list(self.url.glob("*.note.json"))):
            time.sleep(0.002)
        return process


needs_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is one process")


@needs_cores
def test_two_processes_write_what_one_writes_and_tell_as_one(repository: Path, tmp_path: Path, alone: dict) -> None:
    preparation = Preparation(repository, tmp_path)
    code, told = preparation.run()
    assert code == DONE and contents(str(preparation.url)) == alone
    steps = [line["step"] for line in told if line["kind"] == "progress"]
    assert steps == sorted(steps) and steps[-1] == 6000
    assert {line["steps"] for line in told if line["kind"] == "progress"} == {6000}
    assert [line["event"] for line in told if line["kind"] == "event"] == ["prepared"]


@needs_cores
def test_a_process_that_is_killed_ends_all_and_the_command_goes_on(
    repository: Path, tmp_path: Path, alone: dict
) -> None:
    preparation = Preparation(repository, tmp_path)
    process = preparation.start()
    parts = process.children()
    parts[1].send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    errors = [line for line in map(json.loads, said.splitlines()) if line["kind"] == "error"]
    assert process.returncode == FAILED and len(errors) == 1 and len(parts) == 2
    assert errors[0]["error_kind"] == "infrastructure" and "killed by signal 9" in errors[0]["message"]
    assert not any(part.is_running() for part in parts) and not is_prepared(str(preparation.url))
    finished = {path: path.stat().st_mtime_ns for path in map(_shard_of, preparation.url.glob("*.note.json"))}
    assert finished and preparation.run()[0] == DONE
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(str(preparation.url)) == alone and not list(preparation.url.glob(".*"))


def _shard_of(note: Path) -> Path:
    return note.with_name(note.name.removesuffix(".note.json"))


@needs_cores
def test_processes_die_with_the_one_that_made_them(repository: Path, tmp_path: Path) -> None:
    process = Preparation(repository, tmp_path).start()
    parts = process.children()
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(parts, timeout=20)
    assert len(gone) == 2 and not alive


@needs_cores
def test_a_bad_file_in_one_process_is_one_message(repository: Path, tmp_path: Path, cut_outs: dict) -> None:
    for name, images in cut_outs.items():
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(1100):
            images[number % 20].save(tmp_path / "photographs" / name / f"{number:04d}.jpg")
    (tmp_path / "photographs" / "china" / "0700.jpg").write_bytes(b"no image")
    data = DataSpec(name="folder", path=str(tmp_path / "photographs"), num_shards=4)
    code, told = Preparation(repository, tmp_path, data).run()
    errors = [line for line in told if line["kind"] == "error"]
    assert code == BAD_SPEC and [line["error_kind"] for line in errors] == ["bad_spec"]
    assert "china/0700.jpg - cannot be read as an image" in errors[0]["message"]


def test_hosts_share_the_shards_and_the_last_one_finishes(tmp_path: Path, alone: dict) -> None:
    job = JobSpec(data=DATA, storage=StorageSpec(root=str(tmp_path)))
    assert prepare(job, part=0, parts=5, count=2) is None
    assert prepare(job, part=2, parts=5, count=1) is None and not is_prepared(data_url(job))
    assert prepare(job, part=3, parts=5, count=2) is not None
    assert contents(data_url(job)) == alone


def test_what_an_earlier_plan_left_is_removed(tmp_path: Path, alone: dict) -> None:
    out = str(tmp_path / "out")
    other = replace(DATA, num_shards=2, num_examples=100, out=out)
    assert prepare(JobSpec(data=other), part=0, parts=2) is None  # one of two hosts: its shards stay, with notes
    (tmp_path / "out" / "mine-00000-of-00001.tfrecord").write_text("somebody else's")
    assert prepare(JobSpec(data=replace(DATA, out=out))) is not None
    assert contents(out) == alone | {"mine-00000-of-00001.tfrecord": b"somebody else's"}


def test_more_shards_than_a_pipe_holds_are_all_done(tmp_path: Path) -> None:
    """A pipe holds 262,144 numbers: beyond that each stands for several."""
    progress = Progress(300_001)
    folder = str(tmp_path)

    def work(number: int, advance) -> None:  # type: ignore[no-untyped-def]
        if number % 50_000 == 0:
            Path(folder, str(number)).touch()
        if number % 1000 == 0:
            advance(1000 if number else 1)

    share(range(300_001), 2, work, progress, lambda error: {"message": str(error)})
    assert progress.done == 300_001
    assert sorted(map(int, os.listdir(folder))) == list(range(0, 300_001, 50_000))


def test_what_a_process_raises_is_told(tmp_path: Path) -> None:
    def work(number: int, advance) -> None:  # type: ignore[no-untyped-def]
        if number == 3:
            raise RuntimeError("the third")

    with pytest.raises(PartFailed, match="the third"):
        share(range(10), 2, work, Progress(10), lambda error: {"message": str(error)})
