"""The main of one worker process: what the launcher starts, and what a person starts under a debugger.

python -m trainer.worker --job runs/X/job.yaml
"""

import argparse
import contextlib
import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import tensorflow as tf

from conf import exit_codes, rules
from conf.errors import BadSpec
from conf.files import load_job, read_ahead
from conf.schema import Accelerator, JobSpec, Verb
from data_pipeline.allocator import keep_freed_memory
from data_pipeline.damage import named
from storage import run_dir as names
from storage.run_dir import RunDir
from storage.staging import close_all, keep_temporary_files
from storage.store import NotStored, open_store
from trainer.channel import Channel, open_channel, stop_on_signals
from trainer.checkpoints import newest_state
from trainer.failures import kind_of, sentence_of
from trainer.faults import refuse_too_late, with_faults
from trainer.find_lr import rate_test
from trainer.memory import watch
from trainer.session import Session
from trainer.topology import find_topology
from trainer.training import run_task

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker to its end; the exit code says how it went."""
    arguments = parse(argv)
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    rank = rank_of(os.environ)
    run = RunDir.of_job(arguments.job)
    keep_stacks = partial(run.store.put, names.stacks_name(arguments.attempt, rank))
    channel = open_channel(os.environ, keep_stacks, rank == 0)
    stop_on_signals(channel)
    try:
        return work(arguments, run, channel)
    except BadSpec as error:
        channel.say("error", error_kind="bad_spec", message=str(error), problems=[str(p) for p in error.problems])
        sys.stderr.write(f"{error}\n")
        return exit_codes.BAD_SPEC
    # The one place where any error becomes an exit code: the launcher decides by it and by the kind.
    except Exception as raised:
        failure = named(raised)
        kind = kind_of(failure)
        # Said first: where the disk is full the log cannot be written either.
        channel.say("error", error_kind=kind, message=sentence_of(failure))
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return exit_codes.BAD_SPEC if kind == "bad_spec" else exit_codes.FAILED


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a worker."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.worker", description="Run one worker of a job, without Ray."
    )
    parser.add_argument("--job", required=True, help="URL of the job.yaml in a run directory")
    parser.add_argument("--attempt", type=int, default=0, help="which try of the job this is")
    tasks = ["train", "benchmark", "find_lr", "evaluate", "export", "checkpoints"]
    parser.add_argument("--task", choices=tasks, help="instead of what the job says")
    return parser.parse_args(argv)


def work(arguments: argparse.Namespace, run: RunDir, channel: Channel) -> int:
    """Read the job, build everything, do what it asks."""
    job = read_job(arguments.job)
    if arguments.task:
        job.job = Verb[arguments.task]
    rules.check(job)
    if job.job is Verb.find_lr:
        job = rate_test(job)
    channel.say("event", event="worker_started", details={"pid": os.getpid(), "host": socket.gethostname()})
    told = with_faults(channel, run, job.fault, rank_of(os.environ))
    told.say("progress", phase="starting")
    if job.cluster.accelerator is Accelerator.cpu:
        tf.config.set_visible_devices([], "GPU")
    if job.cluster.memory_limit_bytes is not None:
        watch(job.cluster.memory_limit_bytes, partial(end_for_memory, channel, job.cluster.memory_limit_bytes))
    topology = find_topology(job, os.environ, len(tf.config.get_visible_devices("GPU")))
    session = Session(job, topology, told, saved_lanes(run))
    stop_on_signals(channel)
    if job.job is Verb.train:
        refuse_too_late(job.fault, session.lengths.steps)
    return run_task(session, run, arguments.attempt)


def end_for_memory(channel: Channel, limit: int, taken: int) -> NoReturn:
    """Say that this process takes more memory than it may, and end it at once: what it would still ask for is lost."""
    message = f"took {taken / 2**20:.0f} MiB of cluster.memory_limit_bytes={limit} ({limit / 2**20:.0f} MiB)"
    channel.say("error", error_kind="out_of_memory", message=message)
    sys.stderr.write(f"out of memory: {message}\n")
    sys.stderr.flush()
    os._exit(exit_codes.FAILED)


def saved_lanes(run: RunDir) -> int | None:
    """How many lanes the run has had so far: one where it was saved before there were any; None if it begins here."""
    state = newest_state(run)
    return None if state is None else int(state.get("lanes", 1))


def read_job(url: str) -> JobSpec:
    """The job at `url`; BadSpec if there is none."""
    folder, _, name = url.rpartition("/")
    try:
        text = open_store(folder or ".").get(name)
    except NotStored as error:
        raise BadSpec.of("job", url, "there is no such file", "give the job.yaml of a run directory") from error
    return load_job(text, url)


def read_job_ahead(argv: Sequence[str]) -> None:
    """Read the job of a worker with this command line: the next attempt's is the same, as a rule.

    From a disk alone: connections to a store far away would not survive a fork.
    """
    url = parse(argv).job
    if "://" not in url:
        read_ahead(Path(url).read_text(), url)


def rank_of(environment: Mapping[str, str]) -> int:
    """This worker's number, before TensorFlow is asked."""
    return int(json.loads(environment.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0))


def run_and_exit(argv: Sequence[str] | None = None) -> None:
    """`main`, then the end of the process at once.

    A normal exit waits for TensorFlow's threads: seconds after a lost peer, minutes where a prefetch still reads.
    """
    keep_temporary_files()  # AutoGraph's generated code: its own clean-up needs a normal exit
    code = main(argv)
    close_all()
    with contextlib.suppress(OSError):  # a log on a full disk
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run_and_exit()
