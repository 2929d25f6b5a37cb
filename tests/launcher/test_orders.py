"""What the workers of an attempt are told."""

from pathlib import Path

import pytest

from conf.files import load_job
from conf.schema import FaultSpec, JobSpec
from launcher.messages import AgentReport
from launcher.orders import Orders
from launcher.placement import Placement
from storage.run_dir import RunDir, attempt_job_name

REPORT = AgentReport(0, "host", "127.0.0.1", 1, 1, 2, (), {})


@pytest.mark.parametrize("numbers", [(1, 2, 3), (4, 5, 6), (4, 6, 9)])
def test_faults_hit_the_attempts_of_the_command_whatever_their_numbers(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    """An evaluation beside it may have a number in between."""
    run, fault = RunDir(str(tmp_path), "x"), FaultSpec(kill_rank=0, attempts=[1, 3])
    orders = Orders(JobSpec(run_id="x", fault=fault), run, Placement(1, 1, 0, 1, 1), None)
    for number in numbers:
        orders.work(number, [REPORT])
    jobs = [load_job(run.store.get(attempt_job_name(number)), "x") for number in numbers]
    assert [job.fault for job in jobs] == [fault, FaultSpec(), fault]
