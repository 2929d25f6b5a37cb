"""A training that leaves corrupt records out: their number is in curves and report, and each is told by name."""

import json
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conf.files import dump_job
from conf.schema import BadRecord, DataSpec, JobSpec, StorageSpec
from data_pipeline.prepare import prepare
from tests.data_pipeline.damaging import cut_image, labelled, rewritten

ROOT = Path(__file__).resolve().parents[2]


def worker(folder: Path, job: JobSpec) -> tuple[int, str]:
    """Exit code and output of one worker that a person started."""
    job.run_id, job.storage.root = "run", str(folder / "runs")
    path = folder / "runs" / "run" / "job.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_job(job))
    command = [sys.executable, "-m", "trainer.worker", "--job", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    return ended.returncode, ended.stdout + ended.stderr


def damaged_job(folder: Path) -> JobSpec:
    """The digits with two bad training records and one bad test record, and a short training on them."""
    manifest = prepare(JobSpec(data=DataSpec(), storage=StorageSpec(root=str(folder / "set"))))
    assert manifest is not None
    rewritten(rewritten(manifest, "train", {0: cut_image, 5: labelled(10)}), "test", {2: cut_image})
    job = JobSpec(data=DataSpec(name="tfrecord", path=manifest.url, channels=1, memory_bytes=0))
    job.trainer.steps, job.trainer.log_every_steps, job.trainer.export_at_end = 38, 19, False  # two epochs of 19 steps
    return job


def test_skipped_examples_are_counted_and_told(tmp_path: Path) -> None:
    job = damaged_job(tmp_path)
    job.data.on_corrupt = BadRecord.skip
    code, output = worker(tmp_path, job)
    assert code == 0, output
    report = json.loads((tmp_path / "runs/run/report/metrics.json").read_text())
    assert report["skipped_examples"] == 1 and report["num_examples"] == 178
    told = [line for line in output.splitlines() if line.startswith("event event=corrupt_record")]
    assert len(told) == 3 and sum("'record': 5" in line and "its label is 10" in line for line in told) == 1
    curves = EventAccumulator(str(tmp_path / "runs/run/tensorboard/train")).Reload()
    points = [float(point.tensor_proto.float_val[0]) for point in curves.Tensors("skipped_examples")]
    assert len(points) == 2 and all(1 <= count <= 2 for count in points)  # 42 of 1258 examples are left over an epoch


def test_without_leave_the_first_ends_the_job_by_name(tmp_path: Path) -> None:
    code, output = worker(tmp_path, damaged_job(tmp_path))
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.startswith("error ")]
    assert "error_kind=bad_data" in line and "train-00000-of-00001.tfrecord: corrupt record" in line
