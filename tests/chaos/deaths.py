"""`make deaths`: whatever a job is made of dies or stands still, in each of its phases; it goes on and ends the same.

The chief's own fault (`fault.freeze_rank=0 fault.during=...`) holds the job at a phase. Then the victim is hit, and the
chief goes on, unless it is the victim. CHAOS_PATIENCE=3 gives a busy machine three times as long.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.goodput import seconds_of
from storage.run_dir import OUTCOME, RunDir, log_name, stacks_name
from storage.store import NotStored
from tests.end_to_end.conftest import Command
from tests.end_to_end.storm import assert_same, command_of
from tests.launcher.conftest import living
from tests.launcher.test_driver import eventually
from trainer.checkpoints import list_checkpoints

PATIENCE = float(os.environ.get("CHAOS_PATIENCE", "1"))
STEPS = 600
#: The deadline of a worker that stands still before its first step is the sum of both.
HANG_S, START_S = 5 * PATIENCE, 5 * PATIENCE
WAIT_S = 60 * PATIENCE
#: Ray's own agents, whose raylet is dead, may try for 60 s to tell a head that is dead too; all else is gone at once.
GONE_S = 90 * PATIENCE
JOB = (
    "cluster=2cpu",
    "cluster.max_restarts=100",
    "trainer.global_batch_size=32",
    f"trainer.steps={STEPS}",
    "trainer.checkpoint_every_steps=20",
    "trainer.eval_every_steps=20",
    "trainer.steps_per_loop=5",
    "trainer.model.dropout=0.2",
    "data.augment.pad_crop=1",
)
#: Short enough for somebody to wait for them.
DEADLINES = (f"cluster.hang_timeout_s={HANG_S}", f"cluster.start_timeout_s={START_S}")
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
PHASES = ("starting", "training", "evaluating", "saving", "exporting")
#: What a job survives by itself, and what is said of it.
SAID = {
    ("worker", KILL): ("infrastructure", "killed by signal 9"),
    ("worker", STOP): ("hang", "stands still"),
    ("agent", KILL): ("infrastructure", "its agent died"),
    ("agent", STOP): ("hang", "no progress from"),
}
Blow = tuple[str, int, signal.Signals]
#: Two commands with some of them each: back-off grows from one start that fails to the next.
BLOWS: list[list[Blow]] = [
    [("worker", 0, KILL), ("worker", 0, STOP), ("worker", 1, KILL)],
    [("worker", 1, STOP), ("agent", 1, KILL), ("agent", 0, STOP)],
]
#: While the chief exports it is alone.
LAST_BLOWS: list[list[Blow]] = [[("worker", 0, KILL), ("worker", 0, STOP)], [("agent", 0, KILL), ("agent", 0, STOP)]]
SERVERS = {"head": "gcs/gcs_server", "raylet": "raylet/raylet"}
#: The raylet is the job's only host. One command each.
SERVER_BLOWS = [("raylet", KILL), ("raylet", STOP), ("head", KILL), ("head", STOP)]


@pytest.fixture(scope="module")
def calm(convoy: Command) -> RunDir:
    convoy.run("run_id=calm", *JOB)
    return RunDir(str(convoy.runs), "calm")


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """In the environment of all that a test starts, and of all that those start."""
    monkeypatch.setenv("CONVOY_CHAOS", str(tmp_path))
    return str(tmp_path)


@dataclass
class Held:
    """A job whose chief stands still whenever it comes to a phase."""

    command: Command
    run: RunDir
    phase: str
    show: Callable[..., None]
    attempt: int = 0
    process: "subprocess.Popen[str] | None" = field(default=None)

    def begin(self) -> None:
        """The command, held in each of its attempts, a little behind the newest checkpoint."""
        saved = [status.step for status in list_checkpoints(self.run)]
        at_step = STEPS if self.phase == "exporting" else max(saved, default=0) + 20
        held = ("fault.freeze_rank=0", f"fault.during={self.phase}", f"fault.at_step={at_step}")
        # Slow from then on, so that the job does not end while something is being noticed.
        slow = ("fault.slow_rank=0", f"fault.slow_s={0.2 * PATIENCE}", f"fault.attempts={list(range(1, 31))}")
        self.process = self.command.start(f"run_id={self.run.run_id}", *JOB, *DEADLINES, *held, *slow)

    def hold(self) -> None:
        """Wait until the next attempt is held."""
        found = self.wait(lambda: [e for e in self.events("fault") if e["attempt"] > self.attempt])
        self.attempt = found[0]["attempt"]

    def strike(self, victim: str, rank: int, number: signal.Signals) -> None:
        """Hit a worker or an agent, and let the chief go on; the attempt ends, and the victim is blamed."""
        os.kill(self.worker(rank) if victim == "worker" else self.agent(rank), number)
        begun = time.time()
        if (victim, rank) != ("worker", 0):
            os.kill(self.worker(0), signal.SIGCONT)
        ended = self.wait(lambda: [e for e in self.events("attempt_ended") if e["attempt"] == self.attempt])[0]
        seconds, details = seconds_of(ended) - begun, ended["details"]
        self.tell(f"{victim} {rank} {number.name}", seconds, f"{details['kind']}, {details['reason'][:70]}")
        kind, words = SAID[victim, number]
        assert (ended["rank"], details["kind"], words in details["reason"]) == (rank, kind, True), ended
        assert seconds < HANG_S + START_S + 10 * PATIENCE
        if (victim, number) == ("worker", STOP) and "no progress" in details["reason"] and self.phase != "exporting":
            self.assert_says_where_it_waits(1 - rank)

    def assert_says_where_it_waits(self, rank: int) -> None:
        """Of itself, or by its log where it waits in C and holds Python's lock."""
        try:
            said = self.run.store.get(stacks_name(self.attempt, rank)).decode()
            assert said.startswith("thread MainThread")
        except NotStored:
            log = self.run.store.get(log_name(self.attempt, rank)).decode()
            assert "most recent call first" in log and "strategy.py" in log, log[-3000:]

    def strike_server(self, name: str, number: signal.Signals) -> None:
        """Hit a server of Ray, let the chief go on: the workers save, and the command says how to go on."""
        process = self.driver
        server = next(c for c in psutil.Process(process.pid).children(True) if SERVERS[name] in command_of(c))
        server.send_signal(number)
        begun = time.time()
        os.kill(self.worker(0), signal.SIGCONT)
        said, _ = process.communicate(timeout=WAIT_S)
        self.tell(f"{name} {number.name}", time.time() - begun, f"exit code {process.returncode}")
        if process.returncode == 0:  # an export that is under way is brought to its end, perhaps before anybody looks
            assert self.phase == "exporting", said
            return
        how = {KILL: "died", STOP: "stands still"}[number]
        assert (process.returncode, SERVERS[name].partition("/")[2] in said, how in said) == (75, True, True), said

    def strike_driver(self) -> None:
        """SIGKILL to the command itself."""
        begun = time.time()
        self.driver.kill()
        self.driver.communicate()
        self.tell("driver SIGKILL", time.time() - begun, f"exit code {self.driver.returncode}")

    def freeze_driver(self) -> None:
        """The command stands still for longer than a worker may: the workers go on, and nobody is blamed for it."""
        process, chief = self.driver, self.worker(0)
        process.send_signal(STOP)
        os.kill(chief, signal.SIGCONT)
        time.sleep(HANG_S + START_S)
        process.send_signal(signal.SIGCONT)
        if self.phase != "exporting":  # which comes to its end, and the job with it
            time.sleep(2)  # it looks at the workers again
            process.terminate()
        said, _ = process.communicate(timeout=WAIT_S)
        ended = next(event["details"] for event in self.events("attempt_ended") if event["attempt"] == self.attempt)
        self.tell("driver SIGSTOP", HANG_S + START_S, f"goes on, {ended['kind']}")
        told = (process.returncode, ended["kind"])
        assert told == ((0, "done") if self.phase == "exporting" else (75, "stopped")), said

    def end(self) -> None:
        """Leave nothing running where a test fails."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def tell(self, what: str, seconds: float, how: str) -> None:
        """A row of the table."""
        self.show(f"  {self.phase:<11}{what:<18}{seconds:>5.1f} s  {how}")

    @property
    def driver(self) -> "subprocess.Popen[str]":
        """The command."""
        assert self.process is not None
        return self.process

    def worker(self, rank: int) -> int:
        """The process of a worker of this attempt."""
        mine = (self.attempt, rank)
        found = self.wait(lambda: [e for e in self.events("worker_started") if (e["attempt"], e["rank"]) == mine])
        return int(found[0]["details"]["pid"])

    def agent(self, rank: int) -> int:
        """The process at the other end of that worker's pipes."""
        theirs = pipes(self.worker(rank))
        children = psutil.Process(self.driver.pid).children(True)
        agents = [child for child in children if command_of(child).startswith("ray::Agent")]
        return next(agent.pid for agent in agents if theirs & pipes(agent.pid))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.run.events() if event["kind"] == kind]

    def wait(self, look: Callable[[], list[Any]]) -> list[Any]:
        """What `look` finds, as soon as it finds something."""
        deadline = time.monotonic() + WAIT_S
        while not (found := look()):
            assert time.monotonic() < deadline, list(self.run.events())[-6:]
            assert self.driver.poll() is None, self.driver.communicate()[0][-3000:]
            time.sleep(0.05)
        return found


def pipes(pid: int) -> set[str]:
    """The pipes that a process has open."""
    found = set()
    for end in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(end))
        except OSError:
            continue
    return {name for name in found if name.startswith("pipe:")}


@pytest.mark.timeout(900 * PATIENCE)
@pytest.mark.parametrize("phase", PHASES)
def test_whatever_dies_in_a_phase_costs_nothing(
    calm: RunDir, convoy: Command, mark: str, tmp_path: Path, show: Callable[..., None], phase: str
) -> None:
    held = Held(convoy, RunDir(str(convoy.runs), phase), phase, show)
    show("")
    try:
        endure(held, mark)
    finally:
        held.end()
    convoy.run(f"run_id={phase}")
    assert eventually(lambda: not living(mark), GONE_S), living(mark)
    assert_nothing_was_lost(held.run)
    assert_same(calm, held.run, STEPS, tmp_path)


def endure(held: Held, mark: str) -> None:
    """Every blow of this phase; after each command that ended nothing of it is left."""
    first, second = LAST_BLOWS if held.phase == "exporting" else BLOWS
    held.begin()
    for blow in first:
        held.hold()
        held.strike(*blow)
    held.hold()
    held.strike_driver()
    assert eventually(lambda: not living(mark), GONE_S), living(mark)
    held.begin()
    for blow in second:
        held.hold()
        held.strike(*blow)
    held.hold()
    held.freeze_driver()
    for server, number in SERVER_BLOWS:
        begin_again(held, mark)
        held.strike_server(server, number)
    assert eventually(lambda: not living(mark), GONE_S), living(mark)


def begin_again(held: Held, mark: str) -> None:
    """The command once more, after one that ended and left no process."""
    assert eventually(lambda: not living(mark), GONE_S), living(mark)
    if held.driver.returncode == 0:  # it came to its end
        held.run.store.delete(OUTCOME)
    held.begin()
    held.hold()


def assert_nothing_was_lost(run: RunDir) -> None:
    """Each attempt went on from the newest checkpoint told of before it, or a newer one, and all were whole."""
    saved: dict[int, int] = {}  # the newest checkpoint of each attempt
    for event in run.events():
        if event["kind"] == "checkpoint_saved":
            saved[event["attempt"]] = event["details"]["step"]
        if event["kind"] == "restored":
            # A driver that stood still hears all that one rank said before it hears the next one.
            newest = max((step for attempt, step in saved.items() if attempt < event["attempt"]), default=0)
            assert event["details"]["step"] >= newest and event["details"]["broken"] == [], event


@pytest.mark.timeout(600 * PATIENCE)
def test_faults_of_its_own_end_a_job_and_it_goes_on_with_the_same_command(
    calm: RunDir, convoy: Command, tmp_path: Path
) -> None:
    once = "cluster.max_restarts=0"
    kept = "trainer.micro_batch=16"  # what a worker takes anyway; a job that gives it goes on with no other
    faults = [
        (
            ("fault.kill_rank=1", "fault.at_step=25", "fault.attempts=[1,2,3]"),
            "killed by signal 9; the same death twice",
        ),
        (("fault.raise_rank=1", "fault.at_step=45", once), "failed - rank 1: ConnectionError: fault.raise_rank=1"),
        (
            ("fault.exhaust_rank=0", "fault.during=evaluating", "fault.at_step=65", once, kept),
            "failed - rank 0: MemoryError",
        ),
        (("fault.corrupt_checkpoint=true", "fault.at_step=90", once), "failed - rank 0: killed by signal 9"),
        (("fault.failing_writes=3", "fault.at_step=130", once), "fault.failing_writes=3"),
    ]
    for words, expected in faults:
        said = convoy.run("run_id=own", *JOB, *words, expect=1)
        assert expected in said, said[-2000:]
    assert "the same death twice at step 25" in convoy.events("own", "attempt_ended")[1]["details"]["reason"]
    kinds = [event["details"]["kind"] for event in convoy.events("own", "attempt_ended")]
    assert kinds == ["infrastructure"] * 3 + ["out_of_memory"] + ["infrastructure"] * 2
    broken = [event["details"] for event in convoy.events("own", "restored") if event["details"]["broken"]]
    assert broken[0]["step"] == 80 and "crc32c" in str(broken[0]["broken"])
    convoy.run("run_id=own")
    assert_same(calm, RunDir(str(convoy.runs), "own"), STEPS, tmp_path)
