"""Where a checkpoint comes from: the libraries it was computed by, and the job that was learnt."""

import hashlib
import platform
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from conf.files import dump_job
from conf.schema import JobSpec, LooksSpec


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    libraries = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    return {"python": platform.python_version()} | libraries


def learning_digest(job: JobSpec) -> str:
    """sha256 of what decides the learning: data, trainer and seed; the same on any cluster."""
    trainer = replace(job.trainer, tensorboard=LooksSpec(), profile=None)
    learning = JobSpec(data=job.data, trainer=trainer, seed=job.seed)
    return hashlib.sha256(dump_job(learning).encode()).hexdigest()
