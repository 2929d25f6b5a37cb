"""What is printed to be typed next, typed."""

import shlex

import pytest

from launcher.compose import compose
from launcher.controller import Outcome
from launcher.farewell import command, failure_text, farewell
from storage.run_dir import RunDir


@pytest.mark.parametrize("root", ["/tmp/räum ö x", "/it's,here", "~/runs", "1e3"])
def test_a_printed_command_means_the_same_run_when_it_is_typed(root):
    job = compose([f"storage.root={root}", "run_id=x"]).job
    words = shlex.split(command(job, "job=evaluate"))[2:]
    again = compose(words).job
    assert (again.storage.root, again.run_id, again.job.name) == (root, "x", "evaluate")


@pytest.mark.parametrize("typed", ["launcher/run.py", "../launcher/run.py", "/opt/my convoy/launcher/run.py"])
def test_the_program_is_the_one_that_was_typed(monkeypatch, typed):
    monkeypatch.setattr("sys.argv", [typed])
    assert shlex.split(command(compose(["run_id=x"]).job))[1:] == [typed, "run_id=x"]


def test_a_stop_while_preparing_names_no_step(tmp_path):
    job = compose(["run_id=x", f"storage.root={tmp_path}"]).job
    preparing = Outcome("stopped", 1, 0, "Ctrl-C: stopped while preparing; the same command goes on", 130)
    said = farewell(job, RunDir(str(tmp_path), "x"), preparing)
    assert said.startswith("Ctrl-C: stopped while preparing; the same command goes on\ngo on with:")
    assert failure_text(RunDir(str(tmp_path), "x"), preparing) == preparing.reason
    training = Outcome("stopped", 1, 30, "Ctrl-C: saved and stopped", 130)
    assert farewell(job, RunDir(str(tmp_path), "x"), training).startswith("Ctrl-C: saved and stopped, at step 30\n")
