"""Which workers with what: what was asked and what there is in, a Placement or a refusal with numbers out. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from conf.errors import BadSpec
from conf.schema import Accelerator, ClusterSpec

#: Worker processes a core on a Ray of Convoy's own, where Ray is told as many CPUs as the job asks for.
CROWD = 8


@dataclass(frozen=True)
class Host:
    """One machine as Ray, or the driver before Ray is started, sees it."""

    name: str
    cpus: float
    gpus: int
    node_id: str = ""  # Ray's name for it


@dataclass(frozen=True)
class Placement:
    """What each worker gets."""

    num_workers: int
    cpus: float  # asked of Ray for a worker
    gpus: int  # asked of Ray for a worker; 0 on CPUs
    replicas_per_worker: int  # devices of tf.distribute
    shares_per_worker: int  # parts of the global batch; a CPU worker among several takes its shares in turn

    @property
    def num_shares(self) -> int:
        """Equal parts of the global batch, over all workers."""
        return self.num_workers * self.shares_per_worker

    @property
    def strategy(self) -> str:
        """The tf.distribute strategy the workers will use."""
        if self.num_workers > 1:
            return "MultiWorkerMirroredStrategy"
        return "MirroredStrategy" if self.replicas_per_worker > 1 else "default"

    @property
    def bundle(self) -> dict[str, float]:
        """The resources of one worker in Ray's words."""
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}


def place(cluster: ClusterSpec, hosts: Sequence[Host], own_ray: bool) -> Placement:
    """The placement of `cluster` on `hosts`. `own_ray`: Convoy starts Ray itself, so CPUs can be counted twice."""
    gpus = _gpus_per_worker(cluster, hosts)
    if gpus:
        _check_gpus(cluster, gpus, hosts)
    else:
        _check_cpus(cluster, hosts, own_ray)
    return _placement(cluster, gpus)


def room(cluster: ClusterSpec, placement: Placement, hosts: Sequence[Host]) -> int:
    """How many such jobs, placed alike, the hosts hold at a time; 1 where a single one is more than there are cores."""
    cpus, gpus = cluster.cpus_per_worker, placement.gpus
    if gpus:
        workers = sum(min(host.gpus // gpus, int(host.cpus / cpus) if cpus else host.gpus) for host in hosts)
    else:
        workers = sum(int(host.cpus / cpus) for host in hosts)
    return max(workers // placement.num_workers, 1)


def fewest(cluster: ClusterSpec) -> int:
    """The number of workers without which the job cannot run."""
    return cluster.min_workers or cluster.workers


def shape(cluster: ClusterSpec, hosts: Sequence[Host]) -> Placement:
    """The placement that `cluster` would have on hosts that have all of it, for a plan that starts nothing."""
    if cluster.accelerator is Accelerator.gpu and not any(host.gpus for host in hosts):
        return _placement(cluster, cluster.gpus_per_worker or 1)
    return _placement(cluster, _gpus_per_worker(cluster, hosts))


def _placement(cluster: ClusterSpec, gpus: int) -> Placement:
    # TensorFlow ignores logical CPU devices under MultiWorkerMirroredStrategy: there a CPU worker is one replica.
    shares = gpus or cluster.gpus_per_worker or 1
    replicas = shares if gpus or cluster.workers == 1 else 1
    return Placement(cluster.workers, cluster.cpus_per_worker, gpus, replicas, shares)


def ray_cpus(placement: Placement) -> int:
    """How many CPUs a Ray of our own is told that this machine has: what the job asks for.

    Ray starts a process for each of them in advance, and nobody else will use this Ray.
    """
    return math.ceil(placement.num_workers * placement.cpus)


def _gpus_per_worker(cluster: ClusterSpec, hosts: Sequence[Host]) -> int:
    if cluster.accelerator is Accelerator.cpu:
        return 0
    if cluster.gpus_per_worker is not None:
        return cluster.gpus_per_worker
    equipped = [host.gpus for host in hosts if host.gpus]
    if not equipped:
        return _none_found(cluster, hosts) if cluster.accelerator is Accelerator.gpu else 0
    workers_per_host = math.ceil(cluster.workers / len(equipped))
    return max(1, min(equipped) // workers_per_host)


def _none_found(cluster: ClusterSpec, hosts: Sequence[Host]) -> int:
    law = f"needs a GPU; {_have_gpus(hosts)}"
    raise BadSpec.of("cluster.accelerator", "gpu", law, "cluster.accelerator=cpu runs on CPUs")


def _check_gpus(cluster: ClusterSpec, gpus: int, hosts: Sequence[Host]) -> None:
    cpus = cluster.cpus_per_worker
    fit = sum(min(host.gpus // gpus, int(host.cpus / cpus) if cpus else host.gpus) for host in hosts)
    if fit >= fewest(cluster):
        return
    workers = "" if cluster.workers == 1 else f"{cluster.workers} workers with "
    each = f"{workers}{gpus} GPU{'s' * (gpus > 1)} {'on one host' if cluster.workers == 1 else 'each'}"
    having_gpus = sum(host.gpus // gpus for host in hosts)
    law = f"needs {each}; {_have_gpus(hosts)}"
    if having_gpus >= cluster.workers:
        law = f"needs {each} and {cpus:g} CPUs a worker; {_have_cpus(hosts)}"
    cure = "cluster.accelerator=cpu runs the same shape on CPUs, or cluster=local takes what the machine has"
    raise BadSpec.of("cluster", cluster.name, law, cure)


def _check_cpus(cluster: ClusterSpec, hosts: Sequence[Host], own_ray: bool) -> None:
    cpus = cluster.cpus_per_worker
    largest = max((host.cpus for host in hosts), default=0)
    if cpus > largest:
        law = f"a worker needs {cpus:g} CPUs on one host; {_have_cpus(hosts)}"
        raise BadSpec.of("cluster.cpus_per_worker", cpus, law, f"at most {largest:g}")
    crowd = CROWD if own_ray else 1
    fit = sum(int(host.cpus * crowd / cpus) if cpus else cluster.workers for host in hosts)
    if fit < fewest(cluster):
        law = f"needs {cluster.workers} workers with {cpus:g} CPU{'s' * (cpus != 1)} each; {_have_cpus(hosts)}"
        cure = f"at most cluster.workers={fit}" if fit else "a larger cluster"
        raise BadSpec.of("cluster.workers", cluster.workers, law, cure)


def _have_gpus(hosts: Sequence[Host]) -> str:
    if len(hosts) == 1:
        return f"{hosts[0].name} has {hosts[0].gpus}"
    listed = ", ".join(f"{host.name} {host.gpus}" for host in hosts[:8])
    return f"the cluster's {len(hosts)} hosts have {sum(host.gpus for host in hosts)} ({listed})"


def _have_cpus(hosts: Sequence[Host]) -> str:
    if len(hosts) == 1:
        return f"{hosts[0].name} has {hosts[0].cpus:g} CPUs"
    listed = ", ".join(f"{host.name} {host.cpus:g}" for host in hosts[:8])
    return f"the cluster's {len(hosts)} hosts have {sum(host.cpus for host in hosts):g} CPUs ({listed})"
