"""trainer.micro_batch=auto: found once for a run by trying on every worker, kept, and lowered after memory ran out.

The answer is an object of the run directory. It is an upper bound: a run that goes on with other workers takes the
largest size below it that divides what a replica then takes, so that the global batch stays what it is.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from conf import augment_rules, micro_batch
from conf.schema import JobSpec, Verb
from launcher.console import Console
from launcher.journal import Journal
from launcher.messages import AgentReport
from launcher.recovery import Ending, Kind
from storage.run_dir import MICRO_BATCH, RunDir, probe_name
from storage.store import NotStored

#: Verbs that take steps of a training.
STEPPING = (Verb.train, Verb.benchmark, Verb.find_lr)


class Fitting:
    """The micro-batch of one run, where the job leaves it to Convoy."""

    def __init__(self, job: JobSpec, run_dir: RunDir, console: Console, shares_per_worker: int):
        self._job, self._run_dir, self._console = job, run_dir, console
        self._shares_per_worker, self._journal = shares_per_worker, Journal(run_dir)
        self._asked = job.trainer.micro_batch == micro_batch.AUTO
        self._num_workers = job.cluster.workers  # of the newest attempt

    @property
    def has_to_probe(self) -> bool:
        """Whether it has to be found before the workers can start."""
        return self._asked and self._job.job in STEPPING and self._kept() is None

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
        """The job with a number for `auto`, as workers take it. Verbs that take no steps need none."""
        if not self._asked:
            return job
        self._num_workers = num_workers
        kept = self._kept()
        size = None if kept is None else self._size(int(kept["micro_batch"]), num_workers)
        return dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, micro_batch=size))

    def after(self, attempt: int, ending: Ending) -> Ending:
        """An attempt's ending; where memory ran out and a smaller size is left, it is taken and the ending says so."""
        kept = self._kept()
        if not self._asked or kept is None or ending.kind is not Kind.out_of_memory:
            return ending
        num_workers = self._num_workers
        now = self._size(int(kept["micro_batch"]), num_workers)
        smaller = self._size(now - 1, num_workers)
        if smaller >= now:
            return ending
        found = {"micro_batch": smaller, "share": self.share(num_workers), "rank": ending.rank}
        self._write(attempt, found, f"{now} ran out of memory")
        return dataclasses.replace(ending, smaller=f"micro-batches of {smaller} instead of {now}")

    def _size(self, at_most: int, num_workers: int) -> int:
        pairs = 2 if augment_rules.mixes(self._job.data.augment) else 1
        return micro_batch.largest(self.share(num_workers), at_most, pairs)

    def _kept(self) -> dict[str, Any] | None:
        if not self._asked:
            return None
        try:
            return dict(self._run_dir.read_json(MICRO_BATCH))
        except NotStored:
            return None

    def _write(self, attempt: int, found: dict[str, Any], why: str) -> None:
        self._run_dir.write_json(MICRO_BATCH, found | {"why": why})
        details = {name: value for name, value in found.items() if name != "rank"}
        self._journal.event("micro_batch", attempt, found["rank"], **details, why=why)
        passes = found["share"] // found["micro_batch"]
        self._console.say(f"micro-batches of {found['micro_batch']}, {passes} an update ({why})")


def probe_arguments(rank: int, share: int, reports: Sequence[AgentReport]) -> tuple[str, ...]:
    """What trainer.probe has to know of a worker's place, beside the job."""
    neighbours = sum(report.host == reports[rank].host for report in reports)
    words = {"rank": rank, "workers": len(reports), "share": share, "neighbours": neighbours}
    return tuple(word for name, value in words.items() for word in (f"--{name}", str(value)))
