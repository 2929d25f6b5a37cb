"""The loop, one attempt after another, against a gang that follows a script. No Ray, no process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conf.schema import ClusterSpec
from launcher import controller as controller_module
from launcher import elastic
from launcher.console import Console
from launcher.controller import Controller, Outcome
from launcher.farewell import failure_text
from launcher.interrupts import Interrupts
from launcher.journal import STOP_REQUEST, Journal
from launcher.messages import AgentReport, Order, WorkerStatus
from launcher.recovery import Ending, Kind
from launcher.rendezvous import Absent, NoRoom
from storage.run_dir import RunDir

REPORT = AgentReport(0, "host", "127.0.0.1", 1, 1, 2, (), {})


def at(rank: int, step: int | None = None, code: int | None = None, **fields: object) -> WorkerStatus:
    progress = {} if step is None else {"phase": "training", "step": step}
    return WorkerStatus(rank, True, exit_code=code, progress=progress, first_step=None if step is None else 1, **fields)


class ScriptedGang:
    """Each attempt is a list of polls, each poll the statuses of the ranks. The last poll is repeated."""

    def __init__(self, *attempts: Sequence[Sequence[WorkerStatus]] | Exception):
        self.attempts = list(attempts)
        self.polls: list[Sequence[WorkerStatus]] = []
        self.log: list[str] = []
        self.has_room_for = 1
        self.is_killed = False

    def gather(self, waiting: Callable[[str], bool]) -> list[AgentReport]:
        if isinstance(self.attempts[0], NoRoom) and not waiting("rank 1: no host"):
            raise self.attempts[0]
        if isinstance(self.attempts[0], Exception):
            raise self.attempts.pop(0)
        return [REPORT]

    def room(self) -> int:
        return self.has_room_for

    def leaving(self) -> list[int]:
        return []

    def start(self, orders: Sequence[Order]) -> None:
        self.log.append("start")
        self.is_killed = False
        self.polls = list(self.attempts.pop(0))

    def poll(self, timeout_s: float) -> Mapping[int, WorkerStatus]:
        statuses = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        ended = {status.rank: status for status in statuses}
        if self.is_killed:
            ended = {rank: one if one.ended else replace(one, exit_code=-9) for rank, one in ended.items()}
        return ended

    def send(self, line: str) -> None:
        self.log.append(line)

    def kill(self) -> None:
        self.log.append("kill")
        self.is_killed = True

    def tail(self, rank: int, lines: int = 20) -> list[str]:
        return [f"the log of rank {rank}"]


class Setting:
    """A controller, its run directory and the person who may interrupt it."""

    def __init__(self, folder: Path, **cluster: object):
        self.run_dir = RunDir(str(folder), "x")
        self.interrupts = Interrupts()
        self.cluster = ClusterSpec(**cluster)

    def run(
        self,
        gang: ScriptedGang,
        is_preparing: bool = False,
        sizes: Sequence[int] = (),
        after: Callable[[int, Ending], Ending] = lambda _, ending: ending,
    ) -> Outcome:
        order = Order("module", (), "", "", "")
        console, journal = Console(), Journal(self.run_dir)
        made = Controller(
            self.cluster, gang, lambda *_: [order], journal, console, self.interrupts, is_preparing, sizes, after
        )
        return made.run(1)

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.run_dir.events()]


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(controller_module, "STACKS_S", 0.0)
    return Setting(tmp_path, hang_timeout_s=60, start_timeout_s=30)


def test_hosts_that_prepare_together_are_one_progress_and_told_once(setting, capsys):
    def preparing(rank: int, step: int, steps: int, code: int | None = None, events: tuple = ()) -> WorkerStatus:
        told = {"phase": "preparing", "step": step, "steps": steps, "examples_per_s": 100.0, "eta_s": 2.0 * rank}
        return WorkerStatus(rank, True, exit_code=code, progress=told, events=events)

    done = {"event": "prepared", "details": {"words": ["examples       train 900", "look at this:  a leak"]}}
    first = [preparing(0, 100, 600), preparing(1, 50, 300)]
    last = [preparing(0, 600, 600, 0, (done,)), preparing(1, 300, 300, 0, (done,))]
    found = setting.run(ScriptedGang([first, last]), is_preparing=True)
    assert (found.state, found.step) == ("succeeded", 0)
    said = capsys.readouterr().out
    assert "preparing  150/900  200 examples/s  ETA 0:02" in said
    assert said.count("examples       train 900\nlook at this:  a leak\n") == 1


def test_memory_that_runs_out_twice_at_one_step_is_no_end_where_the_next_attempt_takes_less(setting, capsys):
    setting.cluster.max_restarts = 0
    error = {"error_kind": "out_of_memory", "message": "MemoryError"}
    exhausted = [[at(0, 5, 1, error=error)]]
    sizes = iter((8, 4))

    def after(attempt: int, ending: Ending) -> Ending:
        return (
            replace(ending, smaller=f"micro-batches of {next(sizes)}") if ending.kind is Kind.out_of_memory else ending
        )

    found = setting.run(ScriptedGang(exhausted, exhausted, [[at(0, 9, 0)]]), after=after)
    assert (found.state, found.attempts) == ("succeeded", 3)
    said = capsys.readouterr().out
    assert "going on with micro-batches of 8; starting again from the last checkpoint (not counted)" in said
    assert "going on with micro-batches of 4" in said


def test_a_checkpoint_that_is_passed_over_is_told_to_the_person_once(setting, capsys):
    """The weights that training goes on with are older than they may think."""
    restored = {
        "event": "restored",
        "details": {"step": 5, "broken": ["checkpoints/step_00000010/a has 3 bytes, not 4"]},
    }
    dies = [at(0, 7, -9, events=(restored,)), at(1, 7, -9, events=(restored,))]
    setting.run(ScriptedGang([dies], [[at(0, 9, 0, events=(restored,)), at(1, 9, 0)]]))
    said = capsys.readouterr().out
    assert said.count("warning: checkpoints/step_00000010/a has 3 bytes, not 4 - that of step 5 is taken\n") == 1


def test_what_keeps_nothing_is_stopped_at_once(setting, capsys):
    """job=evaluate, say: there is nothing to wait for."""
    setting.cluster.grace_s = 0.0
    setting.interrupts.workers_start()
    gang = ScriptedGang([[at(0, 5)]])
    poll = gang.poll
    gang.poll = lambda timeout_s: (setting.interrupts.request("Ctrl-C"), poll(timeout_s))[1]
    found = setting.run(gang)
    assert (found.state, found.reason) == ("stopped", "Ctrl-C: stopped before it was done")
    assert "Ctrl-C: stopping\n" in capsys.readouterr().out
    assert gang.log == ["start", "stop", "kill"] and "grace_exceeded" not in setting.kinds()


def test_a_restart_leaves_the_number_of_a_task_beside_it_alone(setting):
    """job=evaluate of a run that trains: both would write to the same log."""

    def after(attempt: int, ending: Ending) -> Ending:
        if ending.kind is not Kind.done:
            assert Journal(setting.run_dir, "evaluate", hears_stop=False).attempt_after(attempt) == attempt + 1
        return ending

    found = setting.run(ScriptedGang([[at(0, 5, -9)]], [[at(0, 7, -9)]], [[at(0, 9, 0)]]), after=after)
    assert (found.state, found.attempts) == ("succeeded", 5)
    told = [(event["kind"], event["attempt"]) for event in setting.run_dir.events()]
    assert [number for kind, number in told if kind == "attempt_started"] == [1, 3, 5]
    assert [number for kind, number in told if kind == "restart"] == [3, 5]


def test_a_preparation_that_is_killed_goes_on_where_it_stopped(setting, capsys):
    message = {"error_kind": "infrastructure", "message": "a process that prepares was killed by signal 9"}
    gang = ScriptedGang([[at(0, code=1, error=message), at(1)]], [[at(0, code=0), at(1, code=0)]])
    found = setting.run(gang, is_preparing=True)
    assert (found.state, found.attempts) == ("succeeded", 2)
    assert "killed by signal 9; starting again where it stopped" in capsys.readouterr().out


def test_success(setting):
    found = setting.run(ScriptedGang([[at(0, 5), at(1, 5)], [at(0, 9, 0), at(1, 9)], [at(0, 9, 0), at(1, 9, 0)]]))
    assert (found.state, found.attempts, found.step, found.exit_code) == ("succeeded", 1, 9, 0)


def test_a_refusal_is_not_retried(setting):
    gang = ScriptedGang([[at(0, code=78, error={"error_kind": "bad_spec", "message": "does not fit"})]])
    found = setting.run(gang)
    assert (found.state, found.exit_code, gang.log) == ("failed", 78, ["start", "kill"])
    assert "does not fit" in found.reason


def test_the_errors_of_all_ranks_are_one_message_the_first_cause_first(setting):
    bug = {"error_kind": "user", "message": "ValueError: a bug"}
    lost = {"error_kind": "infrastructure", "message": "lost contact with another worker (UnavailableError)"}
    first = [at(0, 5), at(1, 5, 1, error=bug), at(2, 5), at(3, 5), at(4, 5), at(5, 5)]
    # What the others had told when they were killed, and one that had nothing to tell.
    last = [at(0, 5, error=lost), first[1], at(2, 5, error=bug), at(3, 5, error=bug), at(4, 5), at(5, 5, error=lost)]
    found = setting.run(ScriptedGang([first, last]))
    assert (found.rank, failure_text(setting.run_dir, found).splitlines()[:3]) == (
        1,
        [
            "failed - rank 1: ValueError: a bug",
            "  the same on ranks 2, 3",
            "  then ranks 0, 5: lost contact with another worker (UnavailableError)",
        ],
    )
    ended = next(event["details"] for event in setting.run_dir.events() if event["kind"] == "attempt_ended")
    assert {rank: said[:5] for rank, said in ended["others"].items()} == {
        "0": "lost ", "2": "Value", "3": "Value", "5": "lost "
    }  # fmt: skip


def test_survivors_are_killed_and_a_new_attempt_is_made(setting):
    gang = ScriptedGang([[at(0, 5), at(1, 5)], [at(0, 5), at(1, 5, -9)]], [[at(0, 9, 0), at(1, 9, 0)]])
    found = setting.run(gang)
    assert (found.state, found.attempts, gang.log) == ("succeeded", 2, ["start", "kill", "start", "kill"])
    expected = ["attempt_started", "attempt_ended", "restart", "attempt_started", "attempt_ended"]
    assert setting.kinds() == expected


def test_restarts_end_at_the_budget_with_the_log_of_the_rank_that_died(tmp_path):
    setting = Setting(tmp_path, max_restarts=1)
    found = setting.run(ScriptedGang([[at(0), at(1, 4, -9)]], [[at(0), at(1, 6, -9)]]))
    assert (found.state, found.attempts, found.exit_code, found.rank) == ("failed", 2, 1, 1)
    assert found.log_tail == ["the log of rank 1"]


def test_an_absent_worker_is_named(tmp_path):
    found = Setting(tmp_path, max_restarts=0).run(ScriptedGang(Absent("1 of 2 workers did not report - rank 1: gone")))
    assert (found.state, "rank 1: gone" in found.reason) == ("failed", True)


@pytest.mark.parametrize(
    ("started", "silent_s", "hangs"), [(True, 59, 0), (True, 61, 1), (False, 89, 0), (False, 91, 1)]
)
def test_silence_is_a_hang_only_after_its_time(setting, started, silent_s, hangs):
    silent = at(1, 5 if started else None, silent_s=silent_s)
    gang = ScriptedGang([[at(0, 5), silent], [at(0, 9, 0), at(1, 9, 0)]], [[at(0, 9, 0), at(1, 9, 0)]])
    found = setting.run(gang)
    assert (found.state, found.attempts) == ("succeeded", 1 + hangs)
    assert gang.log.count("dump stacks") == hangs
    assert setting.kinds().count("hang") == hangs


@pytest.mark.parametrize("way", ["signal", "request"])
def test_a_stop_is_passed_on_and_the_job_is_not_started_again(setting, way):
    gang = ScriptedGang([[at(0, 5), at(1, 5)], [at(0, 6, 75), at(1, 6)], [at(0, 6, 75), at(1, 6, 75)]])
    if way == "request":
        setting.run_dir.write_json(STOP_REQUEST, {})
    else:
        setting.interrupts.request("SIGTERM")
        setting.interrupts.reason = None  # it comes while the workers run
        poll = gang.poll
        gang.poll = lambda timeout_s: (setting.interrupts.request("SIGTERM"), poll(timeout_s))[1]
    found = setting.run(gang)
    assert (found.state, found.exit_code, found.step) == ("stopped", 75, 6)
    assert gang.log == ["start", "stop", "kill"]
    assert not setting.run_dir.store.exists(STOP_REQUEST)


def test_grace_ends(tmp_path):
    setting = Setting(tmp_path, grace_s=0.05)
    setting.run_dir.write_json(STOP_REQUEST, {})
    gang = ScriptedGang([[at(0, 5)]])
    found = setting.run(gang)
    assert (found.state, gang.log[-1]) == ("stopped", "kill")
    assert "grace_s=0.05" in found.reason


@pytest.mark.parametrize("code", [None, 75])
def test_a_stop_while_preparing_saves_nothing_and_counts_no_steps(setting, code, capsys):
    setting.run_dir.write_json(STOP_REQUEST, {})
    preparing = WorkerStatus(0, True, progress={"phase": "preparing", "step": 1376})
    gang = ScriptedGang([[preparing], [replace(preparing, exit_code=code)]])
    found = setting.run(gang, is_preparing=True)
    assert (found.state, found.step) == ("stopped", 0)
    assert found.reason == "job=stop: stopped while preparing; the same command goes on"
    assert "job=stop: stopping" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("user", True),
        ("unknown", True),
        ("infrastructure", False),
        ("bad_data", False),
        ("disk_full", False),
        ("bad_spec", False),
    ],
)
def test_the_logs_end_is_shown_where_it_says_more_than_the_message(tmp_path, kind, shown):
    died = at(0, code=1, error={"error_kind": kind, "message": "/runs/x: a sentence - and its cure"})
    found = Setting(tmp_path, max_restarts=0).run(ScriptedGang([[died]]))
    assert (found.state, found.rank, bool(found.log_tail)) == ("failed", 0, shown)
    assert found.exit_code == (78 if kind in ("bad_spec", "disk_full") else 1)
    assert "/runs/x: a sentence - and its cure" in found.reason


def test_a_worker_that_was_preempted_is_started_again_for_nothing(tmp_path):
    gang = ScriptedGang([[at(0, 5, 75)]], [[at(0, 9, 0)]])
    found = Setting(tmp_path, max_restarts=0).run(gang)
    assert (found.state, found.attempts) == ("succeeded", 2)


def test_what_workers_tell_is_written_down(setting):
    event = {"event": "checkpoint_saved", "details": {"step": 5}}
    setting.run(ScriptedGang([[at(0, 5, events=(event,))], [at(0, 9, 0)]]))
    told = [event for event in setting.run_dir.events() if event["kind"] == "checkpoint_saved"]
    assert [(event["attempt"], event["rank"], event["details"]) for event in told] == [(1, 0, {"step": 5})]


SAVED = ({"event": "checkpoint_saved", "details": {"step": 5}},)


def test_a_gang_grows_at_the_next_checkpoint_and_nothing_is_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(elastic, "LOOK_EVERY_S", 0.0)
    setting = Setting(tmp_path, workers=2, max_restarts=0)
    gang = ScriptedGang([[at(0, 4)], [at(0, 5, events=SAVED)], [at(0, 6, 75)]], [[at(0, 9, 0)]])
    gang.has_room_for = 2
    found = setting.run(gang, sizes=(2, 1))
    assert (found.state, found.attempts, gang.log) == ("succeeded", 2, ["start", "stop", "kill", "start", "kill"])
    assert "there is room for 2 workers again" in capsys.readouterr().out
    ended = next(event["details"] for event in setting.run_dir.events() if event["kind"] == "attempt_ended")
    assert ended["kind"] == "resized"


def test_a_gang_that_cannot_save_in_time_to_grow_starts_again_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(elastic, "LOOK_EVERY_S", 0.0)
    setting = Setting(tmp_path, workers=2, max_restarts=0, grace_s=0.05)
    gang = ScriptedGang([[at(0, 5, events=SAVED)], [at(0, 6)]], [[at(0, 9, 0)]])
    gang.has_room_for = 2
    found = setting.run(gang, sizes=(2, 1))
    assert (found.state, found.attempts) == ("succeeded", 2)
    assert setting.kinds().count("grace_exceeded") == 1


def test_a_worker_that_was_told_to_leave_has_the_grace_and_no_more(tmp_path):
    leaving = replace(at(0, 5), progress={"phase": "training", "step": 5, "pace": {"stops": True}})
    setting = Setting(tmp_path, max_restarts=0, grace_s=0.05)
    found = setting.run(ScriptedGang([[leaving, at(1, 5)]], [[at(0, 9, 0), at(1, 9, 0)]]))
    assert (found.state, found.attempts) == ("succeeded", 2)
    restart = next(event["details"] for event in setting.run_dir.events() if event["kind"] == "restart")
    assert "rank 0 was told to leave" in restart["reason"] and not restart["counted"]


def test_no_capacity_is_a_kind_of_its_own(setting, capsys):
    gone = NoRoom("1 of 2 workers did not report - rank 1: no host")
    found = setting.run(ScriptedGang(gone))
    assert (found.state, found.attempts, found.exit_code) == ("failed", 1, 1)
    assert found.reason.startswith("no capacity: 1 of 2 workers") and "the same command goes on" in found.reason
    assert setting.kinds() == ["capacity_missing", "attempt_ended"]
    assert "waiting for capacity - rank 1: no host" in capsys.readouterr().out


def test_a_stop_ends_the_waiting_for_capacity(setting):
    setting.run_dir.write_json(STOP_REQUEST, {})
    found = setting.run(ScriptedGang(NoRoom("nobody")))
    assert (found.state, found.exit_code) == ("stopped", 75)


def test_a_save_that_takes_longer_than_the_grace_is_warned_of_once(tmp_path, capsys):
    setting = Setting(tmp_path, grace_s=5)
    slow = ({"event": "checkpoint_saved", "details": {"step": 5, "seconds": 7.25}},)
    quick = ({"event": "checkpoint_saved", "details": {"step": 5, "seconds": 4.0}},)
    setting.run(ScriptedGang([[at(0, 5, events=told)] for told in (quick, slow, slow)] + [[at(0, 9, 0)]]))
    said = capsys.readouterr().out
    assert said.count("warning: a checkpoint took 7.2 s to save") == 1 and "cluster.grace_s more than 7" in said
    assert setting.kinds().count("slow_save") == 1


def test_steps_that_leave_a_stop_too_little_time_are_warned_of_once(tmp_path, capsys):
    """A stop takes up to two calls of the compiled loop and a save: 2 x 2.6 s + 1 s are more than 6 s."""

    def paced(loop_s: float, *told: dict) -> WorkerStatus:
        status = at(0, 5, events=told)
        return replace(status, progress={**status.progress, "pace": {"loop_s": loop_s}})

    saved = {"event": "checkpoint_saved", "details": {"step": 5, "seconds": 1.0}}
    setting = Setting(tmp_path, grace_s=6)
    polls = [[paced(2.6)], [paced(2.4, saved)], [paced(2.6)], [paced(2.7)], [at(0, 9, 0)]]
    setting.run(ScriptedGang(polls))
    said = capsys.readouterr().out
    assert said.count("warning: a stop or a pre-emption may take 6.2 s (2 calls of the compiled loop, 2.6 s each") == 1
    assert "cluster.grace_s=6 - give cluster.grace_s 7 or more" in said and "trainer.steps_per_loop" in said
    assert setting.kinds().count("slow_stop") == 1 and "slow_save" not in setting.kinds()
