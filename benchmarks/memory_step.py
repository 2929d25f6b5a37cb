"""Some training steps of one model on made-up images, for `benchmarks.memory`: peak memory and time as JSON.

python -m benchmarks.memory_step MODEL SIDE BATCH none|blocks
"""

import json
import resource
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from conf.schema import ModelSpec, OptimizerSpec, Rematerialize, TrainerSpec
from data_pipeline.allocator import keep_freed_memory
from trainer.model_parts import blocks_of
from trainer.models import block_pattern, build_model
from trainer.objective import Objective
from trainer.optimizers import make_optimizer
from trainer.segmented import segmented_model
from trainer.step import TrainingStep

STEPS = 3
CLASSES = 10


def measure(name: str, side: int, batch: int, mode: str) -> dict[str, float]:
    """`peak_bytes` and `step_s` of one case in this process."""
    keep_freed_memory()
    trainer = TrainerSpec(model=ModelSpec(name), rematerialize=Rematerialize[mode])
    model = build_model(trainer.model, (side, side, 3), CLASSES)
    optimizer = make_optimizer(trainer, STEPS)
    optimizer.build(model.trainable_variables)
    segmented = segmented_model(trainer, model, blocks_of(model, block_pattern(trainer.model)))
    strategy = tf.distribute.get_strategy()
    step = TrainingStep(strategy, model, optimizer, Objective(CLASSES), OptimizerSpec(), segmented=segmented)
    ones = np.ones(batch, np.float32)
    example: dict[str, Any] = {"image": np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3))}
    example = {"image": example["image"].astype(np.float32), "label": np.arange(batch, dtype=np.int32) % CLASSES}
    example |= {"mask": ones, "weight": ones, "batch_examples": np.float32(batch)}
    batches = iter(tf.data.Dataset.from_tensors(example).repeat())
    asked = (batches, tf.constant(1), tf.constant(0.0, tf.float64))
    step.run.get_concrete_function(*asked)
    before = _high_water()
    step.run(*asked)
    begun = time.perf_counter()
    for _ in range(STEPS):
        step.run(*asked)[0].numpy()
    seconds = (time.perf_counter() - begun) / STEPS
    keras.utils.clear_session()
    return {"peak_bytes": float(_high_water() - before), "step_s": seconds}


def _high_water() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
