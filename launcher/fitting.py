"""The micro-batch of a run: with `auto` found once by trying on every worker; lowered after memory ran out; kept.

A number given as `trainer.micro_batch` is left alone. What is kept is an object of the run directory and an upper
bound: a run that goes on with other workers takes the largest size below it that divides what a replica then takes, so
that the global batch stays what it is. It says nothing of a job that needs another amount of memory for an example, as
one that begins to rematerialize.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from conf import augment_rules, micro_batch
from conf.schema import BatchNormSync, JobSpec, Verb
from launcher.console import Console
from launcher.journal import Journal
from launcher.messages import AgentReport
from launcher.recovery import EVALUATING, EXPORTING, Ending, Kind
from storage.run_dir import MICRO_BATCH, RunDir, probe_name
from storage.store import NotStored, StoreError

#: Verbs that take steps of a training.
STEPPING = (Verb.train, Verb.benchmark, Verb.find_lr)


class Fitting:
    """The micro-batch of one run, where the job leaves it to Convoy."""

    def __init__(self, job: JobSpec, run_dir: RunDir, console: Console, shares_per_worker: int):
        self._job, self._run_dir, self._console = job, run_dir, console
        self._shares_per_worker, self._journal = shares_per_worker, Journal(run_dir)
        self._is_auto = job.trainer.micro_batch == micro_batch.AUTO
        # What synchronized BatchNorm computes depends on how the batch is cut: no other cut without being asked.
        is_same = job.trainer.model.batch_norm is not BatchNormSync.synchronized
        self._is_free = self._is_auto or (job.trainer.micro_batch is None and is_same)
        self._num_workers = job.cluster.workers  # of the newest attempt
        self._kills = 0  # of workers, by a host without memory, since this command began

    @property
    def has_to_probe(self) -> bool:
        """Whether it has to be found before the workers can start."""
        return self._is_auto and self._job.job in STEPPING and self._kept() is None

    def share(self, num_workers: int) -> int:
        """Examples of a step that a replica takes."""
        return self._job.trainer.global_batch_size // (num_workers * self._shares_per_worker)

    def probing(self, num_workers: int) -> int:
        """That so many workers try now; the share of each replica."""
        self._num_workers = num_workers
        return self.share(num_workers)

    def keep(self, attempt: int) -> None:
        """Take the smallest of the workers' answers for the run."""
        num_workers = self._num_workers
        answers = [self._run_dir.read_json(probe_name(attempt, rank)) for rank in range(num_workers)]
        rank = min(range(num_workers), key=lambda number: int(answers[number]["micro_batch"]))
        found = {"micro_batch": int(answers[rank]["micro_batch"]), "share": self.share(num_workers)}
        self._write(attempt, found | {"rank": rank, "limit_bytes": answers[rank].get("limit_bytes")}, "fits")

    def fitted(self, job: JobSpec, num_workers: int) -> JobSpec:
        """The job with the number that was found, as workers take it. Verbs that take no steps need none."""
        self._num_workers = num_workers
        kept = self._kept()
        if kept is None:
            trainer = dataclasses.replace(job.trainer, micro_batch=None) if self._is_auto else job.trainer
        else:
            trainer = dataclasses.replace(job.trainer, micro_batch=self._now(num_workers), accumulation_steps=1)
        return job if trainer is job.trainer else dataclasses.replace(job, trainer=trainer)

    def after(self, attempt: int, ending: Ending) -> Ending:
        """An attempt's ending; where memory ran out and a smaller size is left, it is taken and the ending says so."""
        if ending.kind is not Kind.out_of_memory or not (self._is_free and self._job.job in STEPPING):
            return ending
        if ending.phase == EXPORTING or (ending.phase == EVALUATING and self._job.trainer.eval_batch_size is not None):
            return ending  # which needs as much whatever the micro-batch is
        if ending.exit_code is None or ending.exit_code < 0:
            self._kills += 1
            if self._kills == 1:
                return ending  # killed from outside, perhaps for somebody else's memory: the same again
        now = self._now(self._num_workers)
        smaller = self._size(now - 1, self._num_workers)
        if smaller >= now:
            return dataclasses.replace(ending, is_smallest=True)
        found = {"micro_batch": smaller, "share": self.share(self._num_workers), "rank": ending.rank}
        self._write(attempt, found, f"{now} ran out of memory")
        return dataclasses.replace(ending, smaller=f"micro-batches of {smaller} instead of {now}")

    def _now(self, num_workers: int) -> int:
        """What so many workers take at a time: as the job says, or less where less was found to fit."""
        asked = self.share(num_workers) // self._job.trainer.accumulation_steps
        kept = self._kept()
        return asked if kept is None else self._size(min(int(kept["micro_batch"]), asked), num_workers)

    def _size(self, at_most: int, num_workers: int) -> int:
        pairs = 2 if augment_rules.mixes(self._job.data.augment) else 1
        return micro_batch.largest(self.share(num_workers), at_most, pairs)

    def _kept(self) -> dict[str, Any] | None:
        """What was found for this job, as far as an example needs as much memory now as it did then."""
        if not self._is_free:
            return None
        try:
            found = self._run_dir.read_json(MICRO_BATCH)
        except NotStored:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("micro_batch"), int) or found["micro_batch"] < 1:
            raise StoreError(f"{self._run_dir.url}/{MICRO_BATCH}: not a micro-batch - remove the file")
        return found if found.get("of") in (None, needs(self._job)) else None

    def _write(self, attempt: int, found: dict[str, Any], why: str) -> None:
        self._run_dir.write_json(MICRO_BATCH, found | {"why": why, "of": needs(self._job)})
        details = {name: value for name, value in found.items() if name != "rank"}
        self._journal.event("micro_batch", attempt, found["rank"], **details, why=why)
        passes = found["share"] // found["micro_batch"]
        self._console.say(f"micro-batches of {found['micro_batch']}, {passes} an update ({why})")


def needs(job: JobSpec) -> str:
    """A short digest of what decides how much memory an example needs."""
    trainer = job.trainer
    decides = {
        "model": dataclasses.asdict(trainer.model),
        "image_size": job.data.image_size,
        "precision": trainer.precision,
        "rematerialize": trainer.rematerialize,
        "compile": trainer.compile,
        "optimizer": trainer.optimizer.name,
        "ema": trainer.ema_decay is not None,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:12]


def probe_arguments(rank: int, share: int, reports: Sequence[AgentReport]) -> tuple[str, ...]:
    """What trainer.probe has to know of a worker's place, beside the job."""
    neighbours = sum(report.host == reports[rank].host for report in reports)
    words = {"rank": rank, "workers": len(reports), "share": share, "neighbours": neighbours}
    return tuple(word for name, value in words.items() for word in (f"--{name}", str(value)))
