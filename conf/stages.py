"""How many replicas the devices of a worker make, where each replica's model is split over several. Pure."""

from conf.errors import Problem
from conf.schema import JobSpec

KEY = "trainer.model.stages"


def replicas(job: JobSpec, devices: int | None) -> int:
    """Replicas on so many devices of a worker; None is as many as one replica takes."""
    return 1 if devices is None else max(devices // max(job.trainer.model.stages, 1), 1)


def problem(job: JobSpec, devices: int, whose: str) -> Problem | None:
    """What is wrong with so many devices of a worker; `whose` says where they are."""
    stages = job.trainer.model.stages
    if stages < 2 or (devices >= stages and devices % stages == 0):
        return None
    below = devices // stages * stages
    nearest = ", ".join(str(count) for count in (below, below + stages) if count)
    law = f"splits each replica over {stages} devices of a worker, and {whose} {devices}"
    return Problem(KEY, stages, law, f"cluster.gpus_per_worker={nearest.replace(', ', ' or ')}")


def problems(job: JobSpec) -> list[Problem]:
    """What is wrong with the job's stages, as far as it is known before hosts are seen."""
    stages, asked = job.trainer.model.stages, job.cluster.gpus_per_worker
    if stages < 1:
        return [Problem(KEY, stages, "a model is on at least one device", f"{KEY}=1")]
    if asked is None or asked < 1:
        return []
    found = problem(job, asked, "cluster.gpus_per_worker is")
    return [found] if found else []
