"""A storm over a job: real faults at random moments, drawn from a seed, and what the job has to be afterwards."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from launcher.goodput import seconds_of
from launcher.mirror import Mirror
from storage.run_dir import EVENTS, EVENTS_FOLDER, TENSORBOARD, RunDir
from tests.end_to_end.conftest import Command
from tests.storage.fault_proxy import Fault, FaultProxy

#: Faults of the store that the client has to get over by itself.
STORE_FAULTS = ("status", "reset", "lose_reply", "cut")
#: What a clock decides, not the training.
CLOCKED = {"examples_per_s", "step_time_s"}
#: A step is a while: seconds after a checkpoint within which the next fault comes.
WITHIN_S = 0.4
PATIENCE_S = 200.0 * float(os.environ.get("CHAOS_PATIENCE", "1"))
FURTHER_STEPS = 5


@dataclass
class Strike:
    """One fault: what it hit, at which step, and how long it took to be noticed and to be overcome."""

    kind: str
    attempt: int
    step: int
    at: float
    seen_s: float = 0.0
    recovered_s: float = 0.0
    blamed: str = ""

    def row(self) -> str:
        """A line of the table."""
        times = f"{self.seen_s:>9.1f}{self.recovered_s:>14.1f}"
        return f"{self.kind:<16}{self.attempt:>8}{self.step:>7}{times}  {self.blamed}"


HEADER = f"{'fault':<16}{'attempt':>8}{'step':>7}{'seen s':>9}{'recovered s':>14}  blamed"


@dataclass
class Storm:
    """One job under way, and what has happened to it."""

    command: Command
    run: RunDir
    words: Sequence[str]
    seed: int
    proxy: FaultProxy | None = None
    within_s: float = WITHIN_S
    strikes: list[Strike] = field(default_factory=list)
    said: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._told: dict[str, dict[str, Any]] = {}
        self._died_at = 0
        self._driver = self._start()

    def rage(self, kinds: Sequence[str]) -> list[Strike]:
        """Each of these faults in turn, while the job lasts; afterwards the job is done."""
        for kind in kinds:
            if not self.strike_next(kind):
                break
        self.end()
        return self.strikes

    def strike_next(self, kind: str) -> bool:
        """One fault, a random moment after the next checkpoint. False if the job is done."""
        if not self._next_checkpoint():
            return False
        time.sleep(self._random.uniform(0, self.within_s))
        self._strike(kind)
        return True

    def end(self) -> None:
        """Wait until the job is done."""
        self.said, _ = self._driver.communicate(timeout=PATIENCE_S)
        assert self._driver.returncode == 0, self.said[-3000:]

    def _start(self) -> "subprocess.Popen[str]":
        return self.command.start(f"run_id={self.run.run_id}", *self.words)

    def _strike(self, kind: str) -> None:
        events = self.events()
        attempt, steps = self._attempt(), [e["details"]["step"] for e in events if e["kind"] == "checkpoint_saved"]
        strike = Strike(kind, attempt, steps[-1], time.time())
        if not self._hit(kind):
            return  # it ended in this moment
        self.strikes.append(strike)
        if kind == "store":
            return
        if kind in ("driver", "head", "raylet", "stop"):
            self._begin_again(strike, expect=-signal.SIGKILL if kind == "driver" else 75)
        else:
            ended = self._wait(lambda: [e for e in self._of("attempt_ended", attempt) if seconds_of(e) > strike.at])
            if not ended:
                return
            strike.seen_s = seconds_of(ended[0]) - strike.at
            self._died_at = int(ended[0]["details"].get("spent", {}).get("step") or 0)
            strike.blamed = f"{ended[0]['details']['kind']}, {ended[0]['details']['reason'][:90]}"
        first = self._wait(lambda: [e for e in self.events() if e["kind"] == "first_step" and e["attempt"] > attempt])
        if first:
            strike.recovered_s = first[0]["details"]["time"] - strike.at

    def _hit(self, kind: str) -> bool:
        name, _, rank = kind.partition(" ")
        try:
            if name in ("kill", "freeze"):
                os.kill(self._worker(int(rank)), signal.SIGKILL if name == "kill" else signal.SIGSTOP)
            elif name == "store":
                self._break_the_store()
            elif name == "stop":
                self._driver.terminate()
            elif name == "driver":
                self._driver.kill()
            else:
                self._server(name).kill()
        except (ProcessLookupError, psutil.NoSuchProcess, IndexError):
            return False
        return True

    def _worker(self, rank: int) -> int:
        started = self._of("worker_started", self._attempt(), rank)
        return int(started[-1]["details"]["pid"])

    def _server(self, name: str) -> psutil.Process:
        """A process that the driver, or one it started, has started."""
        words = {
            "agent": "ray::Agent",
            "standby": "trainer.standby",
            "head": "gcs/gcs_server",
            "raylet": "raylet/raylet",
        }
        children = psutil.Process(self._driver.pid).children(recursive=True)
        found = [child for child in children if words[name] in command_of(child)]
        # Workers are forks of the standby server and look like it.
        return self._random.choice(found) if name == "agent" else found[0]

    def _break_the_store(self) -> None:
        assert self.proxy is not None
        for method in ("GET", "POST", "PUT", "DELETE"):
            kind = self._random.choice(STORE_FAULTS if method != "DELETE" else STORE_FAULTS[:2])
            self.proxy.faults.append(Fault(kind, method, skip=self._random.randrange(8)))

    def _begin_again(self, strike: Strike, expect: int) -> None:
        self.said, _ = self._driver.communicate(timeout=PATIENCE_S)
        strike.seen_s = time.time() - strike.at
        strike.blamed = f"exit code {self._driver.returncode}"
        assert self._driver.returncode in (expect, 0), self.said[-3000:]
        if self._driver.returncode != 0:
            self._driver = self._start()

    def _next_checkpoint(self) -> bool:
        """Wait until the attempt at hand has saved, further on than the last death. False if the job is done.

        The same death at the same step would end the job; a worker may have been a few steps further than was told.
        """
        further = self._died_at + FURTHER_STEPS

        def saved() -> list[dict[str, Any]]:
            found = self._of("checkpoint_saved", self._attempt())
            return [event for event in found if event["details"]["step"] > further]

        return bool(self._wait(saved))

    def _attempt(self) -> int:
        return max((event["attempt"] for event in self.events() if event["kind"] == "attempt_started"), default=0)

    def _of(self, kind: str, attempt: int, rank: int | None = None) -> list[dict[str, Any]]:
        found = [event for event in self.events() if (event["kind"], event["attempt"]) == (kind, attempt)]
        return [event for event in found if rank is None or event["rank"] == rank]

    def _wait(self, look: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """What `look` finds, as soon as it finds something; nothing once the driver has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            ended = self._driver.poll() is not None
            if found := look():
                return found
            if ended:
                return []
            time.sleep(0.05)
        self._driver.kill()
        raise AssertionError(f"nothing happened for {PATIENCE_S} s: {self.events()[-5:]}")

    def events(self) -> list[dict[str, Any]]:
        """What has happened; of a far run each event is fetched once, past the proxy's faults."""
        store = self.run.store
        if store.local_path(EVENTS) is not None:
            return list(self.run.events())
        for stored in store.list(f"{EVENTS_FOLDER}/"):
            if stored.name not in self._told:
                self._told[stored.name] = json.loads(store.get(stored.name))
        return [self._told[name] for name in sorted(self._told)]


def command_of(process: psutil.Process) -> str:
    """Its command line; nothing if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def weights(run: RunDir, step: int) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint: the model's, the optimizer's and all else."""
    found: dict[str, np.ndarray] = {}
    folder = f"checkpoints/step_{step:08d}"
    for file in run.read_json(f"{folder}/manifest.json")["tensors"]:
        found |= load(run.store.get(f"{folder}/{file['name']}"))
    return found


def points(run: RunDir, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve that TensorBoard shows of a run, but for those of the clock."""
    # On a disk TensorBoard reads the attempts' files as they are, with what their killed writers had begun.
    drawn = run.store.local_path(TENSORBOARD)
    if drawn is None:
        drawn = folder
        Mirror(run.url.rpartition("/")[0], run.run_id, folder).pull()
    found = {}
    for split in ("train", "validation"):
        curves = EventAccumulator(str(drawn / split), {"tensors": 0})
        curves.Reload()
        for tag in set(curves.Tags()["tensors"]) - CLOCKED - {"job"}:
            told = curves.Tensors(tag)
            found[f"{split}/{tag}"] = [(point.step, float(point.tensor_proto.float_val[0])) for point in told]
    return found


def assert_same(one: RunDir, other: RunDir, step: int, folder: Path) -> None:
    """The same bits: weights and all other state, every point of every curve, the report."""
    left, right = weights(one, step), weights(other, step)
    assert left.keys() == right.keys() and any(name.startswith("optimizer/") for name in left)
    assert not [name for name in left if not np.array_equal(left[name], right[name])]
    curves = points(one, folder / "one"), points(other, folder / "other")
    assert curves[0].keys() == curves[1].keys() and len(curves[0]["train/loss"]) >= 5
    differ = {tag: set(told).symmetric_difference(curves[1][tag]) for tag, told in curves[0].items()}
    assert curves[0] == curves[1], {tag: sorted(told) for tag, told in differ.items() if told}
    reports = [run.read_json("report/metrics.json") for run in (one, other) if run.store.exists("report/metrics.json")]
    assert len(reports) in (0, 2) and reports[:1] == reports[1:]
