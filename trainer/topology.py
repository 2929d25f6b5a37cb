"""Which part of the job this process is: pure arithmetic over the job, TF_CONFIG and the devices that were found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from conf import micro_batch, rules, stages
from conf.errors import BadSpec
from conf.schema import Accelerator, JobSpec
from data_pipeline.order import BatchShape


@dataclass(frozen=True)
class Topology:
    """Workers, replicas, and how a replica takes its share of a batch.

    `turns` is 1 wherever a device is a replica of the shape that was asked. A CPU worker of several is a single device,
    whatever its shape: it takes the shares of its `turns` replicas one after the other, as more micro-batches.
    A replica has as many devices as its model has `stages`.
    """

    num_workers: int
    rank: int
    local_replicas: int
    turns: int
    on_gpu: bool
    stages: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints, curves and reports."""
        return self.rank == 0

    @property
    def num_replicas(self) -> int:
        """Replicas of the model, over all workers."""
        return self.num_workers * self.local_replicas

    @property
    def replicas(self) -> range:
        """The numbers of this worker's replicas."""
        return range(self.rank * self.local_replicas, (self.rank + 1) * self.local_replicas)


def find_topology(job: JobSpec, environment: Mapping[str, str], visible_gpus: int) -> Topology:
    """This process's place. `visible_gpus` is what TensorFlow sees; too few are refused by number."""
    config = json.loads(environment.get("TF_CONFIG", "{}"))
    num_workers = len(config.get("cluster", {}).get("worker", [])) or 1
    rank = int(config.get("task", {}).get("index", 0))
    asked, parts = job.cluster.gpus_per_worker, job.trainer.model.stages
    on_gpu = _wants_gpu(job, visible_gpus)
    if on_gpu:
        devices = asked or visible_gpus
        if visible_gpus < devices:
            law = f"TensorFlow sees {visible_gpus} GPUs in worker {rank}"
            cure = "check driver, CUDA libraries and CUDA_VISIBLE_DEVICES, or run it with cluster.accelerator=cpu"
            raise BadSpec.of("cluster.gpus_per_worker", devices, law, cure)
        return Topology(num_workers, rank, _replicas(job, devices, f"worker {rank} has"), 1, True, parts)
    replicas = 1 if asked is None else _replicas(job, asked, "cluster.gpus_per_worker is")
    if num_workers > 1:
        return Topology(num_workers, rank, 1, replicas, False, parts)
    return Topology(1, 0, replicas, 1, False, parts)


def _replicas(job: JobSpec, devices: int, whose: str) -> int:
    problem = stages.problem(job, devices, whose)
    if problem:
        raise BadSpec([problem])
    return stages.replicas(job, devices)


def batch_shape(job: JobSpec, topology: Topology) -> BatchShape:
    """How the global batch is cut into replicas and micro-batches; refused where it does not divide."""
    shares = topology.num_replicas * topology.turns
    passes = _passes(job, shares)
    shape = f"{shares} replicas x {passes} micro-batches"
    problem = rules.batch_problem(job.trainer.global_batch_size, shares * passes, shape)
    if problem:
        raise BadSpec([problem])
    return BatchShape(job.trainer.global_batch_size, passes * topology.turns, topology.num_replicas)


def _passes(job: JobSpec, shares: int) -> int:
    """Micro-batches of each of so many shares of the global batch."""
    trainer = job.trainer
    if trainer.micro_batch == micro_batch.AUTO:
        law = "is found when a run begins, by the command that starts it, and this job has not been begun so"
        raise BadSpec.of("trainer.micro_batch", micro_batch.AUTO, law, "launcher/run.py, or give a number")
    passes = micro_batch.accumulation_steps(trainer, shares)
    if isinstance(trainer.micro_batch, int) and trainer.global_batch_size % (shares * trainer.micro_batch):
        law = f"does not divide what each of {shares} replicas takes of trainer.global_batch_size"
        share = trainer.global_batch_size // shares
        cure = f"nearest: {micro_batch.largest(share, trainer.micro_batch)}"
        raise BadSpec.of("trainer.micro_batch", trainer.micro_batch, law, cure)
    return passes


def evaluation_shape(job: JobSpec, topology: Topology, lanes: int = 1) -> BatchShape:
    """The shape of an evaluation's batches: the size asked, rounded up to a whole share for every replica and lane."""
    passes = micro_batch.accumulation_steps(job.trainer, topology.num_replicas * topology.turns)
    asked = job.trainer.eval_batch_size or job.trainer.global_batch_size // passes
    pieces = topology.num_replicas * lanes
    return BatchShape(-(-asked // pieces) * pieces, 1, topology.num_replicas)


def _wants_gpu(job: JobSpec, visible_gpus: int) -> bool:
    if job.cluster.accelerator is Accelerator.auto:
        return job.cluster.gpus_per_worker is not None or visible_gpus > 0
    return job.cluster.accelerator is Accelerator.gpu
