"""Ray Train's TensorflowTrainer (v2) with max_failures: two workers that train until somebody ends the process.

    python benchmarks/peers/ray_train_recovery.py STEPS_FILE

Every worker adds a line {"rank", "pid", "step", "time"} to STEPS_FILE after each step. Nothing is saved or restored.
"""

import json
import os
import sys
import tempfile

os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train_loop(config):
    """One worker's part."""
    import time

    import ray.train

    from benchmarks.peers.worker_loop import train

    rank = ray.train.get_context().get_world_rank()
    with open(config["steps"], "a", buffering=1) as steps:

        def tell(step):
            steps.write(json.dumps({"rank": rank, "pid": os.getpid(), "step": step, "time": time.time()}) + "\n")

        train(steps=1_000_000, after_step=tell)


with tempfile.TemporaryDirectory() as folder:
    ray.init(num_cpus=3, include_dashboard=False, logging_level="error", log_to_driver=False)
    TensorflowTrainer(
        train_loop,
        train_loop_config={"steps": sys.argv[1]},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=folder, name="tiny", failure_config=FailureConfig(max_failures=100)),
    ).fit()
