"""Ray Train's TensorflowTrainer (v2), two workers, with a loop of its own since `fit` fails there."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train_loop(config):
    """One worker's part; rank 0 says when its first step was done."""
    from ray.train import get_context

    from benchmarks.peers.worker_loop import train

    first_step = train()
    if get_context().get_world_rank() == 0:
        Path(config["said"]).write_text(json.dumps({"first_step": first_step}))


with tempfile.TemporaryDirectory() as folder:
    said = Path(folder) / "said.json"
    ray.init(num_cpus=3, include_dashboard=False, logging_level="error", log_to_driver=False)
    TensorflowTrainer(
        train_loop,
        train_loop_config={"said": str(said)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=folder, name="tiny"),
    ).fit()
    print(said.read_text(), flush=True)
    ray.shutdown()
sys.exit(0)
