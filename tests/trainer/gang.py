"""Processes that train together, as a launcher would start them: each knows its place by TF_CONFIG."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conf.files import dump_job
from conf.schema import Accelerator, ClusterSpec, JobSpec
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
#: The shapes that learning must not depend on, on CPUs: workers, and replicas of each.
SHAPES = {"one": (1, 1), "mirrored": (1, 2), "workers": (2, 1)}
Gang = tuple[list[subprocess.Popen[bytes]], Path]


def cluster_of(shape: str) -> ClusterSpec:
    """The cluster of a job of this shape."""
    workers, replicas = SHAPES[shape]
    return ClusterSpec(workers=workers, gpus_per_worker=replicas, accelerator=Accelerator.cpu)


def start(folder: Path, workers: int, *command: str) -> Gang:
    """`python -m COMMAND` once for each worker, each with a log FOLDER/RANK.log; without waiting for them."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    running = []
    for rank in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        environment |= {"TF_CONFIG": json.dumps(config)} if workers > 1 else {}
        with (folder / f"{rank}.log").open("w") as log:
            words = [sys.executable, "-m", *command]
            running.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return running, folder


def wait(gang: Gang, timeout_s: float = 280) -> list[int]:
    """Their exit codes, in the order of their ranks. None of them outlives it."""
    running, _ = gang
    try:
        return [process.wait(timeout_s) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def finish(gang: Gang, timeout_s: float = 280) -> None:
    """Wait for an end that has to be a good one."""
    codes = wait(gang, timeout_s)
    logs = [(gang[1] / f"{rank}.log").read_text()[-3000:] for rank, code in enumerate(codes) if code]
    assert not logs, "\n".join([f"exit codes {codes}", *logs])


def train(job: JobSpec, workers: int, *words: str) -> Gang:
    """Start so many workers of this job; their logs lie in its run directory."""
    path = Path(job.storage.root) / str(job.run_id) / "job.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_job(job))
    return start(path.parent, workers, "trainer.worker", "--job", str(path), *words)
