"""A training that leaves corrupt records out: their number is in curves and report, and each is told by name."""

import json
import re
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conf.schema import BadRecord, DataSpec, JobSpec, StorageSpec
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_order
from data_pipeline.prepare import prepare
from data_pipeline.reader import open_split
from tests.data_pipeline.damaging import cut_image, labelled, rewritten
from tests.trainer import gang


def worker(folder: Path, job: JobSpec) -> tuple[int, str]:
    """Exit code and output of one worker that a person started."""
    (ended,) = workers(folder, job, 1)
    return ended


def workers(folder: Path, job: JobSpec, count: int) -> list[tuple[int, str]]:
    """The same of several, which train together."""
    job.run_id, job.storage.root = "run", str(folder / "runs")
    started = gang.train(job, count)
    logs = [started[1] / f"{rank}.log" for rank in range(count)]
    return [(code, log.read_text()) for code, log in zip(gang.wait(started), logs, strict=True)]


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


def test_the_budget_is_that_of_the_job_and_ends_every_worker_at_the_same_step(tmp_path: Path) -> None:
    """One bad record each is within the budget of each worker's reader; the job has two of them."""
    job = damaged_job(tmp_path)
    manifest = prepare(JobSpec(data=DataSpec(num_shards=1), storage=StorageSpec(root=str(tmp_path / "other"))))
    assert manifest is not None
    size = job.trainer.global_batch_size
    firsts = []  # that each worker sees
    for rank in range(2):
        order = training_order(
            open_split(manifest, "train", job.data), job.data, job.seed, BatchShape(size, 1, 2), range(rank, rank + 1)
        )
        firsts.append(int(order.batches(0, 1).examples[0, 0]))
    rewritten(manifest, "train", dict.fromkeys(firsts, cut_image))
    job.data.path, job.data.on_corrupt, job.data.max_corrupt = manifest.url, BadRecord.skip, 1
    job.trainer.steps, job.cluster.workers = 15, 2  # less than an epoch: no worker ever meets the other's
    found = workers(tmp_path, job, 2)
    law = "2 examples of train are corrupt, over all workers, and data.max_corrupt=1"
    for code, output in found:
        assert code == 1, output
        assert output.count("WARNING data_pipeline.reader skipped") == 1
        assert re.search(f"^data_pipeline.records.CorruptRecord: .*{law}", output, re.M)
    output = found[0][1]
    (line,) = [line for line in output.splitlines() if line.startswith("error ")]
    assert "error_kind=bad_data" in line and law in line
    assert re.findall(r"^progress phase=training step=(\d+)", output, re.M) == ["10"]
