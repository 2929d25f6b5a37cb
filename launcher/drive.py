"""Drive one job here: standby, Ray, agents, preparing, the task itself; afterwards nothing of it is left."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from conf import rules
from conf.data_url import data_url
from conf.schema import Accelerator, ClusterSpec, JobSpec, Verb
from launcher.console import Console
from launcher.controller import Controller, Gang, Outcome, Planner
from launcher.gate import connected, grouped, local_placement
from launcher.interrupts import Interrupts
from launcher.journal import Journal
from launcher.messages import Standby
from launcher.orders import Orders
from launcher.placement import Placement
from launcher.saved import outcome as last_outcome
from launcher.standby import standby_server, wants_standby
from storage.data_dir import is_prepared
from storage.run_dir import ATTEMPTS, RunDir


@dataclass(frozen=True)
class Drive:
    """One job on its way."""

    job: JobSpec
    run_dir: RunDir
    console: Console
    interrupts: Interrupts

    def run(self) -> Outcome:
        """Everything from the first process to the last; the outcome of what was asked for."""
        try:
            return self._run()
        except (KeyboardInterrupt, SystemExit):  # while Ray starts, its own handler of SIGTERM exits
            self.interrupts.request("SIGTERM")
            reason = f"{self.interrupts.reason}: stopped before the workers were started"
            step = int(last_outcome(self.run_dir).get("step") or 0)
            return Outcome("stopped", next_attempt(self.run_dir) - 1, step, reason, self.interrupts.exit_code)

    def _run(self) -> Outcome:
        with self._own_standby() as standby, connected(self.job.cluster) as placement:
            self.interrupts.arm()  # Ray sets handlers of its own
            job = resolved(self.job, placement)
            rules.check(job)
            with grouped(placement, job.cluster.start_timeout_s) as gang:
                return self._tasks(job, gang, Orders(job, self.run_dir, placement, standby))

    def _tasks(self, job: JobSpec, gang: Gang, orders: Orders) -> Outcome:
        attempt = next_attempt(self.run_dir)
        if needs_data(job):
            self.console.say(f"preparing {job.data.name} into {data_url(job)}")
            outcome = self._control(job.cluster, gang, orders.prepare, is_preparing=True).run(attempt)
            if outcome.state != "succeeded" or job.job is Verb.prepare:
                return outcome
            attempt = outcome.attempts
        return self._control(job.cluster, gang, orders.work).run(attempt)

    def _control(self, cluster: ClusterSpec, gang: Gang, planner: Planner, is_preparing: bool = False) -> Controller:
        return Controller(cluster, gang, planner, Journal(self.run_dir), self.console, self.interrupts, is_preparing)

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
    return job.job in (Verb.train, Verb.prepare, Verb.benchmark) and not is_prepared(data_url(job))


def next_attempt(run_dir: RunDir) -> int:
    """The number after the last attempt that left anything; the first is 1."""
    names = (stored.name.split("/")[1] for stored in run_dir.store.list(f"{ATTEMPTS}/"))
    return max((int(name) for name in names if name.isdigit()), default=0) + 1
