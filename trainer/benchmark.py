"""The task `benchmark`: how fast the reader is alone, the model alone, and both together, on the job's own cluster.

Nothing is restored and nothing is saved: the weights that the steps move are thrown away.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from conf import exit_codes
from conf.schema import Encoding
from data_pipeline.pipeline import decoded_bytes, is_kept_in_memory
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer.parts import Batch
from trainer.session import Session
from trainer.step import compile_step
from trainer.verdict import Setting, Speeds, judge

ROUNDS = 3
PHASES = {"reader": "the reader", "model": "the model", "both": "both"}
#: Of the measured time, before it: buffers fill and clocks settle.
WARM_UP = 0.25
#: Of the measured time, at most, in one call of the compiled loop, so that phases end about when they should.
CALL_SHARE = 0.05
#: Single steps, the fastest of which says how long one is: the first ones fill buffers.
TRIES = 5
#: (wish to stop) -> examples of one call, and whether all stop.
Turn = Callable[[bool], tuple[float, bool]]


@dataclass(frozen=True)
class Measured:
    """What one phase did in its time. `examples` are real ones, over the whole job."""

    examples: float
    seconds: float

    def __add__(self, other: "Measured") -> "Measured":
        return Measured(self.examples + other.examples, self.seconds + other.seconds)

    @property
    def examples_per_s(self) -> float:
        """The speed."""
        return self.examples / self.seconds


def benchmark(session: Session, run: RunDir) -> int:
    """Measure and report. Returns an exit code: DONE, or STOPPED when it was asked to stop."""
    session.channel.say("progress", phase="building")
    if session.phases.longest != session.phases.number:
        session.change_phase(session.phases.longest)
    turns = {
        "reader": _reading(session),
        "model": _stepping(session, _fixed_batch(session)),
        "both": _stepping(session, session.training_batches(0)),
    }
    phases = dict.fromkeys(turns, Measured(0.0, 0.0))
    for _ in range(ROUNDS):  # in turn, so that what else the machine does meets all three
        for name, turn in turns.items():
            phases[name] += _timed(session, name, turn)
    phases["reader"] = slowest(session, phases["reader"])
    if session.channel.stop_requested:
        return exit_codes.STOPPED
    found = report(session, phases)
    if session.topology.is_chief:
        run.write_json(names.BENCHMARK, found)
    session.channel.say("result", step=0, metrics={name: phase.examples_per_s for name, phase in phases.items()})
    return exit_codes.DONE


def report(session: Session, phases: dict[str, Measured]) -> dict[str, Any]:
    """What report/benchmark.json says."""
    batch, topology = session.shape.global_batch_size, session.topology
    verdict = judge(Speeds(**{name: phase.examples_per_s for name, phase in phases.items()}), setting(session))
    return {
        "measured": {
            name: asdict(phase) | {"examples_per_s": phase.examples_per_s, "step_s": batch / phase.examples_per_s}
            for name, phase in phases.items()
        },
        "verdict": verdict.limit.value,
        "input_bound": verdict.input_bound,
        "reason": verdict.reason,
        "advice": [{"try": word, "why": why} for word, why in verdict.advice],
        "global_batch_size": batch,
        "workers": topology.num_workers,
        "replicas": topology.num_replicas,
        "device": "GPU" if topology.on_gpu else "CPU",
        "precision": session.job.trainer.precision.name,
        "model": session.job.trainer.model.name,
        "data": session.manifest.name,
        "image_size": session.image_size,
    }


def setting(session: Session) -> Setting:
    """What the advice depends on."""
    data, trainer, manifest = session.job.data, session.job.trainer, session.manifest
    examples = manifest.splits["train"].num_examples
    return Setting(
        on_gpu=session.topology.on_gpu,
        precision=trainer.precision,
        global_batch_size=trainer.global_batch_size,
        steps_per_loop=trainer.steps_per_loop,
        image_size=session.image_size,
        largest_side=manifest.images.largest_side,
        decoded_bytes=decoded_bytes(examples, manifest, data, session.image_size),
        kept_in_memory=is_kept_in_memory(examples, manifest, data, data.augment, session.image_size),
        crops=data.augment.crop_min_area < 1,
        stored_as_files=manifest.encoding == Encoding.files.name,
        host_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )


def slowest(session: Session, own: Measured) -> Measured:
    """What the readers of all workers give together: a step waits for the slowest of them."""
    speeds = told_by_all(session, own.examples_per_s)
    return Measured(float(speeds.min()) * len(speeds) * own.seconds, own.seconds)


def told_by_all(session: Session, value: float) -> NDArray[np.float64]:
    """Each worker's `value`, at its rank; the same on all of them. Every worker has to call it."""
    workers, strategy = session.topology.num_workers, session.strategy
    if workers == 1:
        return np.array([value])
    mine = tf.one_hot(session.topology.rank, workers, value, 0.0, dtype=tf.float64)

    @tf.function
    def sums() -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.identity(mine)), axis=None)

    return np.asarray(sums().numpy() / session.topology.local_replicas)


def _timed(session: Session, what: str, turn: Turn) -> Measured:
    """Calls of `turn` for one round's share of the asked seconds, after some to warm up."""
    seconds, channel = session.job.benchmark.seconds / ROUNDS, session.channel
    for length in (WARM_UP * seconds, seconds):
        examples, begun, stops = 0.0, time.perf_counter(), False
        while not stops:
            more, stops = turn(channel.stop_requested or time.perf_counter() - begun >= length)
            examples += more
            channel.say(
                "progress", phase=f"measuring {PHASES[what]}", examples_per_s=examples / (time.perf_counter() - begun)
            )
        found = Measured(examples, time.perf_counter() - begun)
    return found


def _reading(session: Session) -> Turn:
    """This worker's batches, looked at no further than to be counted."""
    iterator = iter(session.training_dataset(0))
    elements = tf.constant(session.job.trainer.steps_per_loop * session.topology.local_replicas)

    @tf.function
    def count(batches: Iterator[Batch], num_elements: tf.Tensor) -> tf.Tensor:
        examples = tf.constant(0.0)
        for _ in tf.range(num_elements):
            examples += tf.reduce_sum(next(batches)["mask"])
        return examples

    count(iterator, elements)  # traces and compiles
    return lambda stop: (float(count(iterator, elements).numpy()), stop)


def _stepping(session: Session, batches: Iterator[Batch]) -> Turn:
    """The steps of training on `batches`: as many between two looks of Python as training takes, or, where they are
    long, as fit into a fraction of the asked time.
    """
    run = compile_step(session.step)
    run(batches, 1, False)  # traces and compiles
    step_s = float(told_by_all(session, min(_seconds_of_a_step(run, batches) for _ in range(TRIES))).max())
    fitting = int(CALL_SHARE * session.job.benchmark.seconds / step_s)
    num_steps = min(max(fitting, 1), session.job.trainer.steps_per_loop)  # all workers have found the same number

    def turn(stop: bool) -> tuple[float, bool]:
        totals = run(batches, num_steps, stop).numpy()
        session.average_batch_norm()
        return float(totals[2]), bool(totals[-1] > 0)  # all workers see the same sum, so all stop after the same call

    return turn


def _seconds_of_a_step(run: Callable[[Iterator[Batch], int, bool], tf.Tensor], batches: Iterator[Batch]) -> float:
    begun = time.perf_counter()
    run(batches, 1, False).numpy()
    return time.perf_counter() - begun


def _fixed_batch(session: Session) -> Iterator[Batch]:
    """The first step's batch again and again, from memory."""
    first = session.training_dataset(0).take(session.topology.local_replicas).cache()
    return session.distributed(first.repeat())
