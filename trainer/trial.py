"""Real steps of a job on made-up images, with micro-batches of the sizes that stdin asks for: python -m trainer.trial.

Each line of stdin is a size, ever larger ones; the answer on stdout is a line of JSON, {"peak_bytes": ...}. Where one
does not fit, the process ends: by itself with EXHAUSTED as soon as it takes up more than --limit bytes or TensorFlow
finds no memory, or because the kernel ends it. A job that cannot be done at any size is {"refused": ...}, its problems.
What a training needs beside its steps is held meanwhile: the copy of all variables that a checkpoint is written from,
and batches that are read ahead.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from conf import augment_rules
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC
from conf.schema import JobSpec
from data_pipeline.allocator import keep_freed_memory
from storage.staging import close_all, keep_temporary_files
from trainer.channel import Terminal
from trainer.memory import EXHAUSTED, watch
from trainer.parts import Batch
from trainer.session import Session
from trainer.step import compile_step
from trainer.topology import Topology, find_topology
from trainer.worker import read_job

#: Micro-batches of the step that is tried: with more than one, sums of gradients are held too.
PASSES = 2
#: Batches that a pipeline holds ahead of the step.
AHEAD = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Try sizes until stdin ends; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.trial", description="Try micro-batches of a job.")
    parser.add_argument("--job", required=True, metavar="URL", help="the job.yaml")
    parser.add_argument("--share", required=True, type=int, help="examples of a step that a replica takes")
    parser.add_argument("--workers", required=True, type=int, help="of the job")
    parser.add_argument("--limit", type=int, help="bytes of the host's memory that may be taken")
    asked = parser.parse_args(arguments)
    end_with_parent()
    prefer_to_be_killed()
    if asked.limit is not None:
        watch(asked.limit, lambda _: os._exit(EXHAUSTED))
    keep_freed_memory()
    try:
        trial = Trial(read_job(asked.job), asked.workers, asked.share)
        for line in sys.stdin:
            trial.take(int(line))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(1, json.dumps({"peak_bytes": peak}).encode() + b"\n")
    except (tf.errors.ResourceExhaustedError, MemoryError):
        return EXHAUSTED
    except BadSpec as error:
        problems = [problem._replace(value=getattr(problem.value, "name", problem.value)) for problem in error.problems]
        os.write(1, json.dumps({"refused": problems}, default=str).encode() + b"\n")
        return BAD_SPEC
    return 0


class Trial:
    """A job's step, ready for micro-batches of any size."""

    def __init__(self, job: JobSpec, workers: int, share: int):
        self._share = share
        unit = 2 if augment_rules.mixes(job.data.augment) else 1
        topology = local_topology(job, workers)
        trainer = dataclasses.replace(
            job.trainer,
            micro_batch=None,
            accumulation_steps=PASSES,
            global_batch_size=PASSES * unit * topology.num_replicas,
        )
        self._session = Session(dataclasses.replace(job, trainer=trainer), topology, Terminal(False), saved_lanes=1)
        last = len(self._session.phases.specs) - 1
        if last:  # where most of the model trains, as a rule
            self._session.change_phase(last)
        spec = self._session.training_dataset(0).element_spec
        self._spec: dict[str, tf.TensorSpec] = spec
        self._ahead = [np.ones((share, *spec["image"].shape[1:]), np.float32) for _ in range(AHEAD)]

    def take(self, size: int) -> None:
        """Two steps of micro-batches of so many examples, the second beside a copy of all variables."""
        run, batches = compile_step(self._session.step), self._batches(size)
        run(batches, 1, False)
        copies = [np.array(value.numpy()) for value in self._session.state.snapshot().values()]
        run(batches, 1, False)
        del copies

    def _batches(self, size: int) -> Iterator[Batch]:
        def one(spec: tf.TensorSpec) -> tf.Tensor:
            shape = [PASSES * size, *spec.shape[1:]] if spec.shape.rank else []
            if spec.shape.rank == 4:
                return tf.random.stateless_uniform(shape, (0, 1), 0.0, 255.0)
            return tf.zeros(shape, spec.dtype) if spec.dtype.is_integer else tf.ones(shape, spec.dtype)

        batch = {name: one(spec) for name, spec in self._spec.items()}
        return self._session.distributed(tf.data.Dataset.from_tensors(batch).repeat())


def local_topology(job: JobSpec, workers: int) -> Topology:
    """This worker's replicas as they will be, as if it were the only worker."""
    alone = find_topology(job, {}, len(tf.config.get_visible_devices("GPU")))
    if workers > 1 and not alone.on_gpu:
        return dataclasses.replace(alone, local_replicas=1)
    return alone


def end_with_parent() -> None:
    """End as soon as the process that asks is gone."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="parent").start()


def prefer_to_be_killed() -> None:
    """Where the kernel has to end somebody for want of memory, this process shall be the one."""
    Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    keep_temporary_files()
    code = main()
    close_all()
    sys.stderr.flush()
    os._exit(code)
