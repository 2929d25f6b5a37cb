"""The standby server reads the job of its last child while nothing happens; the next child has it at once."""

from pathlib import Path

import pytest

from conf import files
from conf.files import dump_job, load_job
from conf.schema import JobSpec, PhaseSpec, TrainerSpec
from trainer.worker import read_job, read_job_ahead


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ahead", {})


def test_a_job_that_was_read_ahead_is_there_without_reading_and_is_everybodys_own(tmp_path: Path, monkeypatch) -> None:
    first, second = tmp_path / "1" / "job.yaml", tmp_path / "2" / "job.yaml"
    job = JobSpec(run_id="x", trainer=TrainerSpec(steps=7, phases=[PhaseSpec(steps=3), PhaseSpec()]))
    for path in (first, second):
        path.parent.mkdir()
        path.write_text(dump_job(job))
    read_job_ahead(["--job", str(first), "--attempt", "1"])
    real, parsed = files.read_exactly, []

    def counted(*parts: object) -> object:
        parsed.append(parts)
        return real(*parts)

    monkeypatch.setattr(files, "read_exactly", counted)
    found = read_job(str(second))
    assert found == job and not parsed
    found.trainer.phases.clear()
    assert read_job(str(second)) == job
    second.write_text(dump_job(JobSpec(run_id="y")))
    assert read_job(str(second)).run_id == "y" and len(parsed) == 1, "another text is another job"
    assert load_job(dump_job(job), "x") == job
