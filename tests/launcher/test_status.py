"""What job=status shows of a run directory."""

import time

from launcher import sweep_status
from launcher.lease import Lease
from launcher.verbs.status import describe
from storage.run_dir import OUTCOME, SWEEP, SWEEP_REPORT, RunDir


def test_times_are_readable_and_have_an_age(tmp_path):
    run_dir = RunDir(str(tmp_path), "x")
    then = time.time() - 3 * 3600
    run_dir.append_event({"kind": "first_step", "attempt": 1, "rank": 0, "details": {"time": then, "step": 10}})
    lines = describe(run_dir)
    assert lines[-1].endswith(f"time {time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(then))} (3 h ago), step 10")
    assert "e+09" not in "\n".join(lines)
    assert lines[4].startswith("last sign ") and lines[4].endswith(" s ago")


def test_the_age_of_the_last_sign_is_told_in_the_unit_that_fits(tmp_path):
    for ago, said in ((30, "30 s ago"), (119, "119 s ago"), (150, "2 min ago"), (3 * 86400, "3 days ago")):
        run_dir = RunDir(str(tmp_path), f"run-{ago}")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago))
        run_dir.append_event({"kind": "restart", "attempt": 1, "time": stamp})
        shown = describe(run_dir)[4]
        number, expected = (int("".join(filter(str.isdigit, text))) for text in (shown, said))
        assert abs(number - expected) <= 2 and shown.split()[-2:] == said.split()[-2:]


def test_a_sweep_shows_its_trials_as_they_stand_now(tmp_path):
    sweep, done, going = (RunDir(str(tmp_path), name) for name in ("s", "s-001", "s-003"))
    assert sweep_status.sweep_at(str(tmp_path), "s") is None
    sweep.write_json(SWEEP, {"words": [], "trials": [{"seed": str(seed)} for seed in range(4)]})
    rows = [{"run_id": "s-001", "state": "unfinished"}, {"run_id": "s-002", "state": "refused", "reason": "no such"}]
    sweep.write_json(SWEEP_REPORT, {"metric": "validation_loss", "trials": rows})
    done.write_json(OUTCOME, {"state": "succeeded", "step": 9})  # since the sweep's last report
    details = {"split": "validation", "step": 9, "accuracy": 0.5, "loss": 0.25}
    done.append_event({"kind": "evaluated", "attempt": 1, "rank": 0, "details": details})
    with Lease(going):
        with Lease(sweep):
            assert sweep_status.sweep_at(str(tmp_path), "s") is not None
            shown = sweep_status.describe(sweep, str(tmp_path))
        assert shown[1].startswith("state     running (process ")
        assert shown[2] == "trials    4: 1 refused, 1 running, 1 succeeded, 1 unfinished"
        assert shown[3].split() == ["run_id", "validation_loss", "validation_accuracy", "seed"]
        assert [line.split()[0] for line in shown[4:]] == ["s-001", "s-002", "s-003", "s-004"]
        assert shown[4].split() == ["s-001", "0.2500", "0.5000", "0"]
        assert shown[5].endswith("refused: no such") and shown[6].endswith("running")
    assert sweep_status.describe(sweep, str(tmp_path))[1] == "state     interrupted"
