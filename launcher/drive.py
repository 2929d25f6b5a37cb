"""Drive one job here: standby, Ray, agents, preparing, the task itself; afterwards nothing of it is left."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from conf import rules
from conf.data_url import data_url, local_source
from conf.errors import BadSpec
from conf.exit_codes import FAILED
from conf.rules import ON_A_RUN
from conf.schema import Accelerator, ClusterSpec, JobSpec, Verb
from conf.stages import replicas
from launcher.console import Console
from launcher.controller import Controller, Outcome
from launcher.elastic import sizes
from launcher.fitting import Fitting
from launcher.gang import Gang, Planner
from launcher.gate import connected, grouped, host_group, local_placement
from launcher.interrupts import Interrupts
from launcher.journal import Journal
from launcher.machine import process_age_s
from launcher.messages import Standby
from launcher.orders import Orders
from launcher.placement import Placement
from launcher.recovery import Ending
from launcher.saved import outcome as last_outcome
from launcher.standby import standby_server, wants_standby
from storage.data_dir import is_prepared
from storage.run_dir import ATTEMPTS, JOB, RunDir
from storage.staging import swept

#: What takes the run's lease: a request to stop is for them.
DRIVERS = (Verb.train, Verb.benchmark, Verb.find_lr)


@dataclass(frozen=True)
class Drive:
    """One job on its way."""

    job: JobSpec
    run_dir: RunDir
    console: Console
    interrupts: Interrupts

    def run(self) -> Outcome:
        """Everything from the first process to the last; the outcome of what was asked for."""
        age_s = round(process_age_s(), 3)
        try:
            with self._journal() as journal:
                journal.event("command", next_attempt(self.run_dir) - 1, job=self.job.job.name, age_s=age_s)
                return self._run()
        except (KeyboardInterrupt, SystemExit) as end:
            return self._interrupted(end)

    def _interrupted(self, end: BaseException) -> Outcome:
        """The outcome where something ended this process in the middle: a signal, or code that thought it might."""
        attempts, step = next_attempt(self.run_dir) - 1, int(last_outcome(self.run_dir).get("step") or 0)
        if isinstance(end, SystemExit) and self.interrupts.reason is None:
            if end.code != signal.SIGTERM:  # which is what Ray's own handler of it exits with while Ray starts
                return Outcome("failed", attempts, step, f"the driver was ended from within ({end!r})", FAILED)
            self.interrupts.request("SIGTERM")
        reason = f"{self.interrupts.reason or 'Ctrl-C'}: stopped before the workers were started"
        return Outcome("stopped", attempts, step, reason, self.interrupts.exit_code)

    def _run(self) -> Outcome:
        lost = self.interrupts.request
        with swept(), self._own_standby() as standby, connected(self.job.cluster, lost) as placement:
            self.interrupts.arm()  # Ray sets handlers of its own
            job = resolved(self.job, placement)
            rules.check(job)
            possible, timeouts = sizes(job), (job.cluster.start_timeout_s, job.cluster.capacity_timeout_s)
            fitting = Fitting(job, self.run_dir, self.console, replicas(job, placement.shares_per_worker))
            with grouped(placement, *timeouts, possible) as gang:
                return self._tasks(job, gang, Orders(job, self.run_dir, placement, standby, fitting=fitting), fitting)

    def _tasks(self, job: JobSpec, gang: Gang, orders: Orders, fitting: Fitting) -> Outcome:
        attempt = self._journal().attempt_after(next_attempt(self.run_dir) - 1)
        if needs_data(job):
            outcome = self._prepare(job, gang, orders, attempt)
            if outcome.state != "succeeded" or job.job is Verb.prepare:
                return outcome
            attempt = outcome.attempts
        if fitting.has_to_probe:
            self.console.say("looking for the largest micro-batch that fits every worker")
            outcome = self._control(job.cluster, gang, orders.probe, is_preparing=True).run(attempt)
            if outcome.state != "succeeded":
                return outcome
            attempt = outcome.attempts
            fitting.keep(attempt)
        counted = dataclasses.replace(orders, numbers=[])  # those of a preparation do not count
        cluster = job.cluster
        if job.job in ON_A_RUN:
            cluster = dataclasses.replace(cluster, grace_s=0.0)  # nothing of it is worth saving: a stop ends it at once
        return self._control(cluster, gang, counted.work, possible=sizes(job), after=fitting.after).run(attempt)

    def _prepare(self, job: JobSpec, gang: Gang, orders: Orders, attempt: int) -> Outcome:
        """On all hosts of a running cluster that see source and run directory; else beside the first worker."""
        self.console.say(f"preparing {job.data.name} into {data_url(job)}")
        source = local_source(job.data)
        with contextlib.ExitStack() as stack:
            hosts = None
            if job.cluster.address is not None and source is not None:
                seen = [str(source)] + ([self.run_dir.url] if "://" not in self.run_dir.url else [])
                hosts = stack.enter_context(host_group(seen, job.cluster.start_timeout_s))
            planner = orders.prepare_on_hosts if hosts else orders.prepare
            outcome = self._control(job.cluster, hosts or gang, planner, is_preparing=True).run(attempt)
        if hosts and outcome.state == "succeeded" and needs_data(job):
            law = "the hosts of the cluster do not see the same files there, or at data.out"
            raise BadSpec.of("data.path", job.data.path, law, "put both where all hosts see them")
        return outcome

    def _control(
        self,
        cluster: ClusterSpec,
        gang: Gang,
        planner: Planner,
        is_preparing: bool = False,
        possible: Sequence[int] = (),
        after: Callable[[int, Ending], Ending] = lambda _, ending: ending,
    ) -> Controller:
        journal = self._journal()
        return Controller(cluster, gang, planner, journal, self.console, self.interrupts, is_preparing, possible, after)

    def _journal(self) -> Journal:
        """The run's journal, in which a task beside its training is told from it."""
        verb = self.job.job
        return Journal(self.run_dir, None if verb is Verb.train else verb.name, verb in DRIVERS)

    @contextlib.contextmanager
    def _own_standby(self) -> Iterator[Standby | None]:
        """This host's server, begun before Ray is: TensorFlow's import and Ray's start then overlap."""
        placement = local_placement(self.job.cluster)
        if placement is None or self.job.job is Verb.prepare or not wants_standby(self.job.cluster, placement.gpus > 0):
            yield None
            return
        with standby_server({} if placement.gpus else {"CUDA_VISIBLE_DEVICES": "-1"}) as server:
            yield server


def resolved(job: JobSpec, placement: Placement) -> JobSpec:
    """The job as the workers shall read it: `auto` and the defaults of the cluster replaced by what was found."""
    accelerator = Accelerator.gpu if placement.gpus else Accelerator.cpu
    gpus = placement.gpus or job.cluster.gpus_per_worker
    return dataclasses.replace(
        job, cluster=dataclasses.replace(job.cluster, accelerator=accelerator, gpus_per_worker=gpus)
    )


def needs_data(job: JobSpec) -> bool:
    """Whether the job reads examples that are not prepared yet."""
    return job.job in (Verb.train, Verb.prepare, Verb.benchmark, Verb.find_lr) and not is_prepared(data_url(job))


def next_attempt(run_dir: RunDir) -> int:
    """The number after the last attempt that left anything; the first is 1."""
    names = (stored.name.split("/")[1] for stored in run_dir.store.list(f"{ATTEMPTS}/"))
    return max((int(name) for name in names if name.isdigit()), default=0) + 1


def has_started(run_dir: RunDir) -> bool:
    """Whether any attempt was given its job."""
    return any(stored.name.endswith(f"/{JOB}") for stored in run_dir.store.list(f"{ATTEMPTS}/"))
