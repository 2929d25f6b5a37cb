"""A trial's process, asked to stop before it could say anything."""

import time

import pytest

from launcher.trial import Process, Trial, result_of


@pytest.mark.parametrize("after_s", [0.0, 0.4])
def test_a_trial_that_is_stopped_in_its_first_second_has_not_failed(tmp_path, after_s):
    trial = Trial(1, "s-001", {"seed": "1"}, (f"storage.root={tmp_path}", "trainer.steps=1"))
    process = Process(trial, tmp_path / "log", {})
    time.sleep(after_s)
    process.stop()
    while process.ended() is None:
        time.sleep(0.01)
    assert process.ended() != 0
    found = result_of(trial, str(tmp_path), process.last_line())
    assert found.state in ("unfinished", "stopped") and found.step == 0


def test_a_trial_that_ends_by_itself_says_why(tmp_path):
    trial = Trial(1, "s-001", {"seed": "1"}, (f"storage.root={tmp_path}", "trainer.steps=0"))
    process = Process(trial, tmp_path / "log", {})
    while process.ended() is None:
        time.sleep(0.01)
    found = result_of(trial, str(tmp_path), process.last_line())
    assert found.state == "failed" and "greater than 0" in str(found.reason)
