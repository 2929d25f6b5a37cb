"""`job=find_lr`, as typed, and what its suggestion is worth."""

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.files import dump_job, load_job
from conf.schema import JobSpec, ScheduleSpec

#: Several jobs in one process: on one core nothing of TensorFlow is set up differently for each.
SEVERAL = "import sys; from trainer.worker import main; sys.exit(max([main(['--job', url]) for url in sys.argv[1:]]))"


@pytest.fixture(scope="module")
def said(convoy) -> str:
    return convoy.run("job=find_lr", "run_id=rates", "cluster=2cpu", "find_lr.steps=80")


@pytest.fixture(scope="module")
def report(convoy, said) -> dict:
    return convoy.json("rates", "report/find_lr.json")


def test_rates_rise_by_equal_factors_until_the_loss_blows_up(report):
    rates, losses = report["rates"], report["losses"]
    assert len(rates) == len(losses) == len(report["smoothed"]) and 40 < len(rates) <= 80
    whole = np.geomspace(1e-6, 10, 80)
    np.testing.assert_allclose(rates, whole[: len(rates)], rtol=1e-4)
    assert 2.0 < losses[0] < 3.0 and min(losses) < 1.5  # ten classes: log 10 at first, and then it learns
    assert report["end"] in ("the loss blew up", "find_lr.high was reached")


def test_the_suggestion_trains_better_than_a_hundredth_and_a_hundredfold_of_it(convoy, report):
    text = (convoy.runs / "rates" / "attempts" / "01" / "job.yaml").read_text()
    job, found = load_job(text, "attempt"), {}
    urls = []
    for times in (0.01, 1.0, 100.0):
        optimizer = dataclasses.replace(job.trainer.optimizer, learning_rate=times * report["suggestion"])
        trainer = dataclasses.replace(
            job.trainer, steps=80, optimizer=optimizer, schedule=ScheduleSpec(), export_at_end=False
        )
        urls.append(written(convoy.runs, dataclasses.replace(job, trainer=trainer, run_id=f"times-{times:g}")))
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, *urls],
        cwd=convoy.repository,
        env=environ,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {times: convoy.json(f"times-{times:g}", "report/metrics.json") for times in (0.01, 1.0, 100.0)}
    assert found[1.0]["accuracy"] > 0.85
    for other in (0.01, 100.0):
        assert found[1.0]["accuracy"] > found[other]["accuracy"] + 0.05, found
        assert found[1.0]["loss"] < found[other]["loss"] or np.isnan(found[other]["loss"])


def test_the_screen_says_what_to_type_and_nothing_that_was_learnt_is_left(convoy, said, report):
    word = f"trainer.optimizer.learning_rate={report['suggestion']:.3g}"
    line = next(line for line in said.splitlines() if line.startswith("train with it:"))
    assert line.endswith(f"storage.root={convoy.runs} cluster=2cpu {word}") and "find_lr" not in line
    folder = convoy.runs / "rates"
    picture = Image.open(io.BytesIO((folder / "report" / "find_lr.png").read_bytes()))
    assert picture.size == (960, 560) and len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert {path.name for path in folder.iterdir()} == {"attempts", "events.jsonl", "report"}


def written(root: Path, job: JobSpec) -> str:
    path = root / str(job.run_id) / "job.yaml"
    path.parent.mkdir()
    path.write_text(dump_job(dataclasses.replace(job, job=type(job.job).train, cluster=JobSpec().cluster)))
    return str(path)
