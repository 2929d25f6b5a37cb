"""One process of a group whose replicas are split over stages: cases of arithmetic.py, and where variables are.

    python -m tests.trainer.staged FOLDER REPLICAS STAGES

on logical CPUs; with TF_CONFIG, one replica a worker. Writes the weights of each replica to FOLDER.
"""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from conf.schema import Accelerator, BatchNormSync, ClusterSpec, JobSpec, ModelSpec, TrainerSpec
from tests.trainer.arithmetic import ADAM, Case, by_convoy, weights_of
from trainer.stages import Devices
from trainer.strategy import configure_devices, devices_of, make_strategy
from trainer.topology import find_topology

CASES = {
    "adam": Case(ADAM, accumulation=2, short=13, class_weights=True),
    "batch-norm": Case(ADAM, batch_norm=BatchNormSync.synchronized),
    "rematerialized": Case(dataclasses.replace(ADAM, clip_norm=0.3), l2=0.01, accumulation=4, rematerialize=True),
}


def main() -> None:
    folder, replicas, stages = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cluster = ClusterSpec(gpus_per_worker=replicas * stages, accelerator=Accelerator.cpu)
    job = JobSpec(cluster=cluster, trainer=TrainerSpec(model=ModelSpec(stages=stages)))
    topology = find_topology(job, os.environ, 0)
    configure_devices(job, topology, 1, len(os.sched_getaffinity(0)))
    strategy, devices = make_strategy(topology), devices_of(topology)
    assert devices == Devices("CPU", replicas, stages)
    found: list[dict[str, np.ndarray]] = [{} for _ in range(replicas)]
    for name, case in CASES.items():
        model = by_convoy(case, strategy, topology.rank * replicas, replicas, devices)
        for replica in range(replicas):
            found[replica] |= {f"{name}:{path}": value for path, value in weights_of(model, replica).items()}
            for variable in model.variables:
                copies = getattr(variable.value, "values", [variable.value])
                number = tf.DeviceSpec.from_string(copies[replica].device).device_index
                found[replica][f"{name}@{variable.path}"] = np.array(number)
    for replica in range(replicas):
        np.savez(folder / f"{topology.rank * replicas + replica}.npz", **found[replica])


if __name__ == "__main__":
    main()
