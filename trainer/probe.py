"""The largest micro-batch that fits one worker: `python -m trainer.probe`, without TensorFlow.

What is tried is tried in processes of their own (`trainer.trial`), so that a size which does not fit takes nothing with
it. The answer is an object in the run directory; the command takes the smallest of all workers'.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conf import augment_rules, micro_batch
from conf.errors import BadSpec, Problem
from conf.exit_codes import BAD_SPEC, DONE, FAILED
from conf.files import load_job
from conf.schema import JobSpec
from data_pipeline.progress import send
from storage import run_dir as names
from storage.run_dir import RunDir
from storage.staging import swept
from storage.store import StoreError, open_store
from trainer import memory

#: Of what the host has, for what grows later: logs, curves, the allocator's waste.
SPARE = 0.1
#: Where our packages are.
ROOT = str(Path(__file__).resolve().parents[1])
#: How the kernel ends a process for want of memory.
KILLED = -9


class Trials:
    """Asks a process of `trainer.trial`, and a new one after each size that did not fit."""

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self.peaks: dict[int, float] = {}

    def fits(self, size: int) -> bool:
        """Whether real steps with micro-batches of this size could be taken. BadSpec where none can, of any size."""
        send({"kind": "progress", "phase": f"trying micro-batches of {size}"})
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{size}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            told = json.loads(line)
            if "refused" in told:
                raise BadSpec(Problem(*problem) for problem in told["refused"])
            self.peaks[size] = float(told["peak_bytes"])
            return True
        self._process, code = None, process.wait()
        if code not in (memory.EXHAUSTED, KILLED):
            raise RuntimeError(f"trying micro-batches of {size} ended with exit code {code}; this log has the reason")
        return False

    def close(self) -> None:
        """End the process that is left."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        paths = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        environ = os.environ | {"PYTHONPATH": paths}
        self._process = subprocess.Popen(self._command, env=environ, stdin=pipe, stdout=pipe, text=True)
        return self._process


def largest_that_fits(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of ascending sizes that fits, in few questions: the largest first, else halving what is left."""
    if fits(sizes[-1]):
        return sizes[-1]
    fitting, too_large = -1, len(sizes) - 1
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        fitting, too_large = (middle, too_large) if fits(sizes[middle]) else (fitting, middle)
    return sizes[fitting] if fitting >= 0 else None


def limit_bytes(job: JobSpec, neighbours: int) -> int | None:
    """What a worker may take of its host's memory: the job's limit, or its part of what the host has."""
    available = memory.available_bytes()
    bounds = [] if available is None else [int(available * (1 - SPARE)) // neighbours]
    return min([*bounds, *filter(None, [job.cluster.memory_limit_bytes])], default=None)


def probe(job: JobSpec, command: Sequence[str], share: int, limit: int | None) -> dict[str, Any]:
    """The answer: `micro_batch`, the limit, and what was seen. BadSpec where not even the smallest fits."""
    sizes = micro_batch.sizes(share, 2 if augment_rules.mixes(job.data.augment) else 1)
    if not sizes:
        law = f"MixUp and CutMix take pairs, and a replica takes {share} examples of a step"
        raise BadSpec.of("trainer.global_batch_size", job.trainer.global_batch_size, law, "a batch of whole pairs")
    trials = Trials([*command, *([] if limit is None else ["--limit", str(limit)])])
    try:
        found = largest_that_fits(sizes, trials.fits)
    finally:
        trials.close()
    if found is None:
        law = f"not even micro-batches of {sizes[0]} fit into {_words(limit)}"
        cure = "trainer.rematerialize=blocks, smaller images or a smaller model, or hosts with more memory"
        raise BadSpec.of("trainer.micro_batch", micro_batch.AUTO, law, cure)
    return {"micro_batch": found, "limit_bytes": limit, "peak_bytes": trials.peaks[found]}


def _words(limit: int | None) -> str:
    return "the device's memory" if limit is None else f"{limit / 2**20:.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe for the worker that is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.probe", description="Find the largest micro-batch.")
    parser.add_argument("--job", required=True, metavar="URL", help="a job.yaml in a run directory")
    parser.add_argument("--attempt", required=True, type=int, help="which try of the job this is")
    parser.add_argument("--rank", required=True, type=int, help="of the worker")
    parser.add_argument("--workers", required=True, type=int, help="of the job")
    parser.add_argument("--share", required=True, type=int, help="examples of a step that a replica takes")
    parser.add_argument("--neighbours", type=int, default=1, help="workers on this host")
    asked = parser.parse_args(arguments)
    run = RunDir.of_job(asked.job)
    command = [sys.executable, "-P", "-m", "trainer.trial", "--job", asked.job]
    command += ["--share", str(asked.share), "--workers", str(asked.workers)]
    try:
        folder, _, name = asked.job.rpartition("/")
        job = load_job(open_store(folder or ".").get(name).decode(), asked.job)
        found = probe(job, command, asked.share, limit_bytes(job, asked.neighbours))
        run.write_json(names.probe_name(asked.attempt, asked.rank), found)
    except BadSpec as error:
        send({"kind": "error", "error_kind": "bad_spec", "message": str(error)})
        return BAD_SPEC
    except (StoreError, RuntimeError) as error:
        kind = "infrastructure" if isinstance(error, StoreError) else "user"
        send({"kind": "error", "error_kind": kind, "message": str(error)})
        return FAILED
    send({"kind": "event", "event": "micro_batch_probed", "details": found})
    return DONE


if __name__ == "__main__":
    with swept():  # of the files of those that were tried and did not fit
        code = main()
    sys.stdout.flush()
    os._exit(code)
