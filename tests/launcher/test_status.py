"""What job=status shows of a run directory."""

import time

from launcher.verbs.status import describe
from storage.run_dir import RunDir


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
