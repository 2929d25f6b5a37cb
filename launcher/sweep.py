"""A sweep on its way: its trials as usual jobs, as many at a time as there are slots, until all have ended."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from conf.data_url import data_url
from conf.exit_codes import DONE
from conf.schema import JobSpec
from launcher import sweep_table
from launcher.console import Console
from launcher.drive import needs_data
from launcher.gate import hosts_of
from launcher.interrupts import Interrupts
from launcher.journal import Journal
from launcher.placement import Placement, place, room
from launcher.plan import read_manifest
from launcher.trial import LOGS, Process, Result, Trial, last_line, result_of, start
from storage.run_dir import SWEEP_REPORT, SWEEP_TABLE, RunDir

LOOK_S = 0.1
#: What a slot adds to the environment of its trials.
Slot = Mapping[str, str]


class NotPrepared(Exception):
    """The data of the trials could not be prepared. `exit_code` is the preparation's."""

    def __init__(self, why: str, exit_code: int):
        super().__init__(why)
        self.exit_code = exit_code


@dataclass
class Sweep:
    """The trials of one sweep, and what came of those that ended."""

    run_dir: RunDir
    root: str
    metric: str
    trials: Sequence[Trial]
    slots: Sequence[Slot]
    console: Console
    interrupts: Interrupts
    results: dict[int, Result] = field(default_factory=dict)

    def run(self) -> None:
        """Every trial that has not succeeded yet, until all have ended or somebody asks to stop."""
        self.results |= {trial.number: result_of(trial, self.root) for trial in self.trials}
        finished = [trial for trial in self.trials if self.results[trial.number].state == "succeeded"]
        waiting = deque(trial for trial in self.trials if trial.refused is None and trial not in finished)
        if finished:
            self.console.say(f"{len(finished)} of {len(self.trials)} trials are finished")
        running: dict[int, Process] = {}
        journal = Journal(self.run_dir)
        journal.forget_stop()
        self.report()
        try:
            self._prepare(waiting)
            for words in unjudged([trial.job for trial in waiting if trial.job], self.metric):
                self.console.say(words)
            while waiting or running:
                if self.interrupts.reason is None and journal.stop_requested():
                    self.interrupts.request("job=stop")
                if self.interrupts.reason:
                    waiting.clear()
                self._start(waiting, running)
                self._settle(running)
                time.sleep(LOOK_S)
        finally:
            for process in running.values():
                process.kill()
            self.report()

    def report(self) -> list[tuple[Trial, Result]]:
        """Write the table, the best trial first; the same as rows."""
        found = [(trial, self.results[trial.number]) for trial in self.trials if trial.number in self.results]
        ranked = sweep_table.ranked(found, self.metric)
        self.run_dir.write_json(SWEEP_REPORT, {"metric": self.metric, "trials": sweep_table.rows(ranked)})
        self.run_dir.store.put(SWEEP_TABLE, sweep_table.as_csv(ranked).encode())
        return ranked

    def _start(self, waiting: "deque[Trial]", running: dict[int, Process]) -> None:
        for slot in [number for number in range(len(self.slots)) if number not in running]:
            if not waiting:
                return
            trial = waiting.popleft()
            self.console.say(f"begins  {trial.name}")
            log = self.run_dir.local(f"{LOGS}/{trial.number:03d}.log")
            running[slot] = Process(trial, log, self.slots[slot])
            self.interrupts.workers_start()

    def _settle(self, running: dict[int, Process]) -> None:
        for slot, process in list(running.items()):
            if self.interrupts.reason:
                process.stop()
            if process.ended() is None:
                continue
            del running[slot]
            trial = process.trial
            result = self.results[trial.number] = result_of(trial, self.root, process.last_line())
            self.run_dir.publish(f"{LOGS}/{trial.number:03d}.log")
            value = result.metrics.get(self.metric)
            said = "" if value is None else f", {self.metric} {value:.4f}"
            why = f" - {result.reason}" if result.reason else ""
            self.console.say(f"{result.state}  {trial.name}: step {result.step}{said}{why}")
            self.report()

    def _prepare(self, waiting: Sequence[Trial]) -> None:
        """The data first, once: trials that begin together would all begin to prepare it."""
        missing = {data_url(trial.job): trial for trial in waiting if trial.job and needs_data(trial.job)}
        for url, trial in missing.items():
            assert trial.job is not None
            self.console.say(f"preparing {trial.job.data.name} into {url}")
            log = self.run_dir.local(f"{LOGS}/prepare.log")
            process = start(["job=prepare", *trial.words], log, {})
            try:
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                self.run_dir.publish(f"{LOGS}/prepare.log")
            if code != DONE:
                raise NotPrepared(last_line(log), code)


def unjudged(jobs: Sequence[JobSpec], metric: str) -> Iterator[str]:
    """What to tell of prepared sets that have nothing to judge a trial by."""
    for url in {data_url(job): None for job in jobs}:
        splits = (read_manifest(url) or {}).get("splits", {})
        if not splits.get("validation", {}).get("num_examples"):
            yield f"take care: {url} has no validation split, so no trial will have a {metric} to be sorted by"


def slots_of(jobs: Sequence[JobSpec], most: int | None) -> list[Slot]:
    """A slot for each of these jobs that the cluster holds at a time. On GPUs of this machine each has some of its own.

    Raises BadSpec where the cluster does not even hold one.
    """
    count, widest = len(jobs) if most is None else min(most, len(jobs)), 0
    is_here = all(job.cluster.address is None for job in jobs)
    hosts = hosts_of(jobs[0].cluster)
    for job in jobs:
        placement: Placement = place(job.cluster, hosts, own_ray=job.cluster.address is None)
        count = min(count, room(job.cluster, placement, hosts))
        widest = max(widest, placement.gpus * placement.num_workers)
    if not widest or not is_here:
        return [{} for _ in range(count)]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown is not None else [str(number) for number in range(hosts[0].gpus)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(names[slot * widest :][:widest])} for slot in range(count)]
