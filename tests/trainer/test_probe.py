"""The largest micro-batch that fits: real steps in real processes, and what the host's memory says."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import BadSpec
from conf.files import dump_job
from conf.schema import ClusterSpec, DataSpec, JobSpec, ModelSpec, StorageSpec, TrainerSpec
from data_pipeline.prepare import prepare
from trainer import memory
from trainer.probe import Trials, largest_that_fits

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20


@pytest.mark.parametrize("fitting", [0, 1, 2, 3, 5, 31, 32, 63, 64])
def test_the_largest_is_found_in_few_questions(fitting):
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= fitting

    sizes = [1, 2, 4, 8, 16, 32, 64]
    found = largest_that_fits(sizes, fits)
    assert found == max((size for size in sizes if size <= fitting), default=None)
    assert len(asked) <= 4
    # A process that has taken a size is asked for larger ones alone: its high-water mark does not fall.
    taken = 0
    for size in asked:
        assert size > taken
        taken = size if size <= fitting else 0


def test_what_a_host_and_its_control_group_leave(tmp_path):
    meminfo, limit, used = tmp_path / "meminfo", tmp_path / "max", tmp_path / "current"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n")
    limit.write_text("4000000\n")
    used.write_text("1000000\n")
    assert memory.available_bytes(meminfo, ((limit, used),)) == 3_000_000
    limit.write_text("max\n")
    assert memory.available_bytes(meminfo, ((limit, used),)) == 5000 * 1024
    assert memory.available_bytes(tmp_path / "none", ()) is None
    assert memory.resident_bytes() > 20 * MIB


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> JobSpec:
    """Images of 64 pixels, activations of megabytes each."""
    folder = tmp_path_factory.mktemp("probe")
    data = DataSpec(name="synthetic", num_examples=300, image_size=64, out=str(folder / "data"))
    trainer = TrainerSpec(
        model=ModelSpec(options={"filters": [32, 16]}), global_batch_size=256, micro_batch="auto", steps=2
    )
    made = JobSpec(run_id="x", data=data, trainer=trainer, storage=StorageSpec(root=str(folder)))
    prepare(made)
    return made


def run(module: str, job: JobSpec, *words: str) -> subprocess.CompletedProcess[str]:
    path = Path(job.storage.root, str(job.run_id), "job.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump_job(job))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", module, "--job", str(path), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def limited(job: JobSpec, limit: int) -> JobSpec:
    return dataclasses.replace(job, cluster=ClusterSpec(memory_limit_bytes=limit))


def test_where_nothing_fits_the_job_is_refused(job):
    words = ("--share", "1", "--workers", "1", "--attempt", "3", "--rank", "0")
    found = run("trainer.probe", limited(job, 100 * MIB), *words)
    assert found.returncode == 78, found.stderr[-2000:]


def test_a_job_that_cannot_be_done_at_any_size_is_refused_in_one_sentence(job):
    trainer = dataclasses.replace(job.trainer, class_weights={"nobody": 2.0})
    path = Path(job.storage.root, "x", "job.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump_job(dataclasses.replace(job, trainer=trainer)))
    trials = Trials([sys.executable, "-P", "-m", "trainer.trial", "--job", str(path), "--share", "1", "--workers", "1"])
    try:
        with pytest.raises(
            BadSpec, match=r"(?m)^  trainer\.class_weights\.nobody=2\.0 - the data has no class of this"
        ):
            trials.fits(1)
    finally:
        trials.close()


def test_a_worker_that_takes_too_much_ends_and_says_so(job):
    trainer = dataclasses.replace(job.trainer, micro_batch=16, global_batch_size=64)
    found = run("trainer.worker", limited(dataclasses.replace(job, trainer=trainer), 200 * MIB))
    assert found.returncode == 1
    assert "cluster.memory_limit_bytes=209715200 (200 MiB)" in found.stderr
