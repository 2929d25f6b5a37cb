"""What each child of an attempt is told: its module, arguments, environment and log."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from conf.files import dump_job
from conf.schema import FaultSpec, JobSpec, Verb
from launcher.fitting import Fitting, probe_arguments
from launcher.messages import AgentReport, Order, Standby
from launcher.placement import Placement
from launcher.rendezvous import check_alike, check_gpus, worker_environs
from launcher.standby import wants_standby
from storage.run_dir import RunDir, attempt_job_name, log_name

WORKER = "trainer.worker"
PREPARE = "data_pipeline.prepare"
PROBE = "trainer.probe"


@dataclass(frozen=True)
class Orders:
    """Makes the orders of each attempt of one job."""

    job: JobSpec
    run_dir: RunDir
    placement: Placement
    standby: Standby | None
    worker: str = WORKER
    numbers: list[int] = field(default_factory=list, compare=False)  # of this command's attempts, in their order
    fitting: Fitting | None = None
    _texts: dict[bool, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def work(self, attempt: int, reports: Sequence[AgentReport]) -> list[Order]:
        """A worker on every agent."""
        check_alike(reports)
        check_gpus(reports, self.placement)
        if self.fitting is not None:
            fitted = self.fitting.fitted(self.job, len(reports))
            return dataclasses.replace(self, job=fitted, fitting=None).work(attempt, reports)
        url = self._write_job(attempt)
        argv: tuple[str, ...] = ("--job", url, "--attempt", str(attempt))
        if self.job.job is not Verb.train:
            argv += ("--task", self.job.job.name)
        forked = self.standby is not None or wants_standby(self.job.cluster, self.placement.gpus > 0)
        environs = worker_environs(reports, self.placement)
        return [self._order(self.worker, argv, attempt, rank, env, forked) for rank, env in enumerate(environs)]

    def probe(self, attempt: int, reports: Sequence[AgentReport]) -> list[Order]:
        """On every agent the search for the largest micro-batch, as if its worker were the only one."""
        check_alike(reports)
        check_gpus(reports, self.placement)
        argv = ("--job", self._write_job(attempt), "--attempt", str(attempt))
        share = self.fitting.probing(len(reports)) if self.fitting else 0
        environs = [{**env, "TF_CONFIG": "{}"} for env in worker_environs(reports, self.placement)]
        return [
            self._order(PROBE, (*argv, *probe_arguments(rank, share, reports)), attempt, rank, env, False)
            for rank, env in enumerate(environs)
        ]

    def prepare(self, attempt: int, reports: Sequence[AgentReport]) -> list[Order]:
        """The preparation, beside the first agent."""
        argv = ("--job", self._write_job(attempt))
        return [self._order(PREPARE, argv, attempt, 0, {"CUDA_VISIBLE_DEVICES": "-1"}, False)]

    def prepare_on_hosts(self, attempt: int, reports: Sequence[AgentReport]) -> list[Order]:
        """A share of the preparation on every host, as large as its cores."""
        url, env = self._write_job(attempt), {"CUDA_VISIBLE_DEVICES": "-1"}
        parts, part, orders = sum(report.cpus for report in reports), 0, []
        for rank, report in enumerate(reports):
            share = ("--part", str(part), "--parts", str(parts), "--count", str(report.cpus))
            orders.append(self._order(PREPARE, ("--job", url, *share), attempt, rank, env, False))
            part += report.cpus
        return orders

    def _write_job(self, attempt: int) -> str:
        """The job as this attempt runs it; the run's own job.yaml stays as it was."""
        name = attempt_job_name(attempt)
        self.run_dir.store.put(name, self._text_of(attempt).encode())
        return f"{self.run_dir.url}/{name}"

    def _text_of(self, attempt: int) -> str:
        """The job as YAML, without faults that are not for this attempt. Made once: restarts are waited for."""
        if attempt not in self.numbers:
            self.numbers.append(attempt)
        suffers = self.numbers.index(attempt) + 1 in self.job.fault.attempts
        if suffers not in self._texts:
            job = self.job if suffers else dataclasses.replace(self.job, fault=FaultSpec())
            self._texts[suffers] = dump_job(job)
        return self._texts[suffers]

    def _order(
        self, module: str, argv: tuple[str, ...], attempt: int, rank: int, env: dict[str, str], forked: bool
    ) -> Order:
        root_url = self.run_dir.url.rpartition("/")[0]
        return Order(
            module=module,
            argv=argv,
            root_url=root_url,
            run_id=self.run_dir.run_id,
            log=log_name(attempt, rank),
            job=(attempt_job_name(attempt), hashlib.sha256(self._text_of(attempt).encode()).hexdigest()),
            env=env | {"PYTHONUNBUFFERED": "1"},
            cwd=os.getcwd(),
            forked=forked,
            standby=self.standby,
            standby_key=hashlib.sha256(self.run_dir.url.encode()).hexdigest()[:12],
        )
