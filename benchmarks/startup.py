"""Seconds from the command to the first optimizer step, and to the end of a tiny job.

    python benchmarks/startup.py [--rounds 3] [--json FILE]

The job is 20 steps of a three-layer CNN, batch 64, on 32 x 32 pictures. Convoy goes through its command line, with data
that was prepared before (the peers hold theirs in memory), saves its checkpoint and neither evaluates nor exports.
Bytecode is compiled for both sides, and the sides take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import REPOSITORY, Figures, Goal, compile_bytecode, interleave, save, show

TIMEOUT_S = 300
JOB = (
    "data=synthetic",
    "data.num_examples=1280",
    "data.split.train=1",
    "data.split.validation=0",
    "data.split.test=0",
    "trainer=convnet",
    "trainer.model.dropout=0",
    "trainer.steps=20",
    "trainer.steps_per_loop=1",
    "trainer.global_batch_size=64",
    "trainer.eval_every_steps=1000000",
    "trainer.evaluate_at_end=false",
    "trainer.export_at_end=false",
)
GOALS = [
    Goal("convoy, 2 workers", "Ray Train, 2 workers", "first_step_s", 0.4, at_most=True),
    Goal("convoy, 2 workers", "Ray Train, 2 workers", "total_s", 0.4, at_most=True),
    Goal("convoy, 1 worker", "plain Keras script", "first_step_s", 1.6, at_most=True),
    Goal("convoy, 1 worker", "plain Keras script", "total_s", 1.6, at_most=True),
]


def run(command: list[str]) -> tuple[str, float, float]:
    """Run a command from the repository's root: what it printed, when it began, when it ended."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    began = time.time()
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]} took longer than {TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    return done.stdout, began, time.time()


def peer(name: str) -> Figures:
    """One peer's script, which prints when its first step was done."""
    printed, began, ended = run([f"benchmarks/peers/{name}.py"])
    said = [json.loads(line) for line in printed.splitlines() if line.startswith('{"first_step"')]
    return {"first_step_s": said[-1]["first_step"] - began, "total_s": ended - began}


def convoy(root: Path, cluster: str) -> Figures:
    """Convoy's command line; the run's events say when its first step was done."""
    run_id = f"startup-{time.time_ns()}"
    _, began, ended = run(["launcher/run.py", *JOB, *places(root), f"cluster={cluster}", f"run_id={run_id}"])
    return {"first_step_s": first_step(root / "runs" / run_id) - began, "total_s": ended - began}


def places(root: Path) -> list[str]:
    """Where the benchmark's runs and its prepared data are."""
    return [f"storage.root={root / 'runs'}", f"data.out={root / 'data'}"]


def first_step(run_dir: Path) -> float:
    """When the first step was done, in seconds since the epoch, as the run's events tell."""
    for line in (run_dir / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event.get("kind") == "first_step":
            return float(event.get("details", {}).get("time", event["time"]))
    raise RuntimeError(f"{run_dir}/events.jsonl has no first_step")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keep every round's figures here")
    asked = parser.parse_args()
    compile_bytecode()
    with tempfile.TemporaryDirectory(prefix="convoy-startup-") as folder:
        root = Path(folder)
        run(["launcher/run.py", "job=prepare", *JOB, *places(root)])
        sides = {
            "plain Keras script": lambda: peer("keras_script"),
            "convoy, 1 worker": lambda: convoy(root, "1cpu"),
            "bare script, 2 workers": lambda: peer("bare_workers"),
            "convoy, 2 workers": lambda: convoy(root, "2cpu"),
            "Ray Train, 2 workers": lambda: peer("ray_train"),
        }
        results = interleave(sides, asked.rounds)
    show("From the command to the first step and to the end of a tiny job", results, GOALS)
    save(asked.json, results)


if __name__ == "__main__":
    main()
