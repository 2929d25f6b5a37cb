"""Seconds from the SIGKILL of one of two workers to the next optimizer step.

    python -m benchmarks.recovery [--rounds 3] [--kills 2] [--json FILE]

Both sides train a three-layer CNN, batch 64, on 32 x 32 pictures, without end. Rank 1 is killed while it trains.
Convoy goes on from its last checkpoint, verified and restored with the optimizer's slots and the place in the data; Ray
Train's TensorflowTrainer with max_failures begins anew, for nothing was saved. The sides take turns, a fresh job each,
and each job is hit `--kills` times; the figure of a round is their median.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import REPOSITORY, Figures, Goal, compile_bytecode, interleave, save, show
from benchmarks.startup import JOB, places, run

TIMEOUT_S = 180.0
LOOK_S = 0.02
#: Steps that a job does between two kills.
STEPS_BETWEEN = 100
SAVED_EVERY = 50
ENDLESS = (
    *(word for word in JOB if not word.startswith("trainer.steps=")),
    "trainer.steps=1000000",
    f"trainer.checkpoint_every_steps={SAVED_EVERY}",
    "cluster=2cpu",
    "cluster.max_restarts=100",
)
GOALS = [
    Goal("convoy, with standby", "Ray Train", "recovery_s", 0.2, at_most=True),
    Goal("convoy, without", "Ray Train", "recovery_s", 0.9, at_most=True),
]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A command from the repository's root, in a session of its own; what it started ends with it."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop it as a person would; kill what does not stop."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of JSON that are whole."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def waited(find: Callable[[], Any], process: "subprocess.Popen[bytes]", log: Path) -> Any:
    """What `find` finds, as soon as it does."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := find():
            return found
        time.sleep(LOOK_S)
    raise RuntimeError(f"nothing happened for {TIMEOUT_S:g} s: {log.read_text(errors='replace')[-600:]}")


def convoy(root: Path, standby: str, kills: int) -> Figures:
    """Convoy's command line, whose events say who lives and when the first step of an attempt was done."""
    run_id = f"recovery-{time.time_ns()}"
    events, log = root / "runs" / run_id / "events.jsonl", root / "log"
    command = ["launcher/run.py", *ENDLESS, *places(root), f"run_id={run_id}", f"cluster.standby={standby}"]
    took = []

    def told(kind: str, attempt: int, rank: int) -> list[dict[str, Any]]:
        found = [event for event in lines(events) if event["kind"] == kind]
        return [event for event in found if (event["attempt"], event["rank"]) == (attempt, rank)]

    def has_trained(attempt: int) -> bool:
        return len(told("checkpoint_saved", attempt, 0)) >= STEPS_BETWEEN // SAVED_EVERY

    with running(command, log) as process:
        for attempt in range(1, kills + 1):
            waited(partial(has_trained, attempt), process, log)
            pid = told("worker_started", attempt, 1)[0]["details"]["pid"]
            killed = time.time()
            os.kill(pid, signal.SIGKILL)
            first = waited(partial(told, "first_step", attempt + 1, 0), process, log)
            if not told("restored", attempt + 1, 0)[0]["details"]["step"]:
                raise RuntimeError("nothing was restored")
            took.append(first[0]["details"]["time"] - killed)
    return {"recovery_s": statistics.median(took)}


def ray_train(root: Path, kills: int) -> Figures:
    """The peer, whose workers write down each of their steps."""
    steps, log = root / f"steps-{time.time_ns()}", root / "peer.log"
    took: list[float] = []
    gone: set[int] = set()

    def newest() -> dict[int, dict[str, Any]]:
        return {told["rank"]: told for told in lines(steps) if told["pid"] not in gone}

    def both_train() -> dict[int, dict[str, Any]]:
        now = newest()
        return now if len(now) == 2 and min(told["step"] for told in now.values()) >= STEPS_BETWEEN else {}

    with running(["benchmarks/peers/ray_train_recovery.py", str(steps)], log) as process:
        for _ in range(kills):
            alive = waited(both_train, process, log)
            gone |= {told["pid"] for told in alive.values()}
            killed = time.time()
            os.kill(alive[1]["pid"], signal.SIGKILL)
            waited(newest, process, log)
            firsts = [told["time"] for told in lines(steps) if told["pid"] not in gone and told["step"] == 1]
            took.append(min(firsts) - killed)
    return {"recovery_s": statistics.median(took)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--json", type=Path, help="keep every round's figures here")
    asked = parser.parse_args()
    compile_bytecode()
    with tempfile.TemporaryDirectory(prefix="convoy-recovery-") as folder:
        root = Path(folder)
        run(["launcher/run.py", "job=prepare", *ENDLESS, *places(root)])
        sides = {
            "convoy, with standby": lambda: convoy(root, "on", asked.kills),
            "Ray Train": lambda: ray_train(root, asked.kills),
            "convoy, without": lambda: convoy(root, "off", asked.kills),
        }
        results = interleave(sides, asked.rounds)
    show("From the death of one of two workers to the next step", results, GOALS)
    save(asked.json, results)


if __name__ == "__main__":
    main()
