"""Which faults a job may put into itself."""

import pytest

from conf import rules
from conf.errors import BadSpec
from conf.fault_rules import is_faulty
from conf.schema import FaultSpec
from tests.conf.test_rules import job

TWO = "cluster=2cpu"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fault.kill_rank=1"], "fault.kill_rank=1 - the job has 1 worker, counted from 0 - fault.kill_rank=0"),
        ([TWO, "fault.slow_rank=-1"], "the job has 2 workers, counted from 0"),
        ([TWO, "fault.freeze_rank=1", "fault.during=saving"], "is the work of rank 0 alone"),
        ([TWO, "fault.raise_rank=1", "fault.during=exporting"], "is the work of rank 0 alone"),
        (["fault.kill_rank=0", "fault.at_step=0"], "fault.at_step=0 - steps are counted from 1"),
        (["fault.slow_rank=0", "fault.slow_s=0"], "fault.slow_s=0.0 - must be greater than 0"),
        (["fault.failing_writes=-1"], "fault.failing_writes=-1 - a number of writes is at least 0"),
        (["fault.kill_rank=0", "fault.attempts=[0]"], "attempts of a command are counted from 1"),
        (["fault.kill_rank=0", "fault.attempts=[]"], "fault.attempts=[] - the faults would hit no attempt"),
        (["fault.slow_rank=0", "fault.slow_s=inf"], "fault.slow_s=inf - must be greater than 0, and end"),
        (["fault.corrupt_checkpoint=true"], "fault.at_step=1 - an older checkpoint has to be there"),
        (["fault.corrupt_checkpoint=true", "fault.at_step=100"], "the first comes at step 100 - fault.at_step=101"),
    ],
)
def test_faults_that_could_not_happen_are_refused(words, said):
    with pytest.raises(BadSpec) as refused:
        rules.check(job(*words))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        [TWO, "fault.kill_rank=1", "fault.at_step=50"],
        [TWO, "fault.freeze_rank=0", "fault.during=saving", "fault.attempts=[1,2]"],
        ["fault.corrupt_checkpoint=true", "fault.at_step=101"],
    ],
)
def test_faults_that_can_happen_are_taken(words):
    rules.check(job(*words))


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (FaultSpec(), False),
        (FaultSpec(at_step=5, attempts=[1, 2], slow_s=3.0), False),
        (FaultSpec(kill_rank=0), True),
        (FaultSpec(slow_rank=0), True),
        (FaultSpec(corrupt_checkpoint=True), True),
        (FaultSpec(failing_writes=1), True),
    ],
)
def test_a_job_without_faults_has_none(fault, found):
    assert is_faulty(fault) is found
