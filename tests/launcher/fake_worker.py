"""A child that speaks the worker's contract and does nothing else. FAKE says how it behaves."""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from storage.staging import keep_temporary_files

STOP = threading.Event()
PROGRESS = int(os.environ["CONVOY_PROGRESS_FD"])


def say(kind: str, **fields: object) -> None:
    os.write(PROGRESS, (json.dumps({"kind": kind, **fields}) + "\n").encode())


def listen() -> None:
    with os.fdopen(int(os.environ["CONVOY_CONTROL_FD"])) as lines:
        for line in lines:
            if line.strip() == "stop":
                STOP.set()
            elif line.strip() == "dump stacks":
                Path(os.environ["FAKE_DIR"], f"stacks_{rank()}").write_text("stacks")
    os._exit(1)


def rank() -> int:
    return int(json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0))


def train(first: int, steps: int) -> None:
    for step in range(first, steps + 1):
        if STOP.is_set():
            say("progress", phase="saving", step=step, pace={"stops": True})
            os._exit(75)
        say(
            "progress",
            phase="training",
            step=step,
            steps=steps,
            loss=1 / step,
            accuracy=0.5,
            examples_per_s=100.0,
            eta_s=1,
        )
        time.sleep(0.02)


def is_first_time(name: str) -> bool:
    """True in the first worker of this name and rank, in whichever attempt."""
    mark = Path(os.environ["FAKE_DIR"], f"{name}_{rank()}")
    if mark.exists():
        return False
    mark.write_text(str(os.getpid()))
    return True


def main() -> None:
    behaviour = os.environ["FAKE"]
    sys.stdout.write(f"argv {' '.join(sys.argv[1:])}\n")
    sys.stdout.flush()
    say(
        "event",
        event="hello",
        details={"tf_config": os.environ.get("TF_CONFIG"), "gpus": os.environ["CUDA_VISIBLE_DEVICES"]},
    )
    if behaviour == "refuse":
        say("error", error_kind="bad_spec", message="the batch does not fit")
        os._exit(78)
    if behaviour == "user":
        sys.stdout.write("Traceback: the last line of the log\n")
        sys.stdout.flush()
        say("error", error_kind="user", message="ValueError: a bug")
        os._exit(1)
    first_time = is_first_time("seen")
    if behaviour == "litter":
        keep_temporary_files()
        tempfile.mkstemp(prefix="generated")
        behaviour = "wait"
    if behaviour == "wait":
        train(1, 100_000)
    train(1, 5)
    if behaviour == "die" and first_time and rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hang" and first_time:
        time.sleep(600)
    train(6, 300 if behaviour == "die" and first_time else 10)
    say("result", step=10, metrics={"test_accuracy": 0.9})
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=listen, daemon=True).start()
    main()
