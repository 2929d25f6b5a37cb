"""What the clocks in the compiled loop see, with inputs that are as slow as the test makes them."""

import time

import numpy as np
import pytest
import tensorflow as tf

from conf.schema import OptimizerSpec, TrainerSpec
from data_pipeline.order import BatchShape
from tests.trainer.arithmetic import Case, batches, new_model
from trainer.objective import Objective
from trainer.optimizers import make_optimizer
from trainer.pace import Pace
from trainer.step import TrainingStep, compile_step

STEPS, SLEEP_S = 8, 0.05


@pytest.fixture(scope="module")
def step() -> TrainingStep:
    model, optimizer = new_model(Case()), make_optimizer(TrainerSpec(), 10)
    optimizer.build(model.trainable_variables)
    return TrainingStep(tf.distribute.get_strategy(), model, optimizer, Objective(10), OptimizerSpec())


def paced(step: TrainingStep, sleeps_s: float) -> tuple[Pace, float]:
    """The pace of some steps whose batches come so slowly, and their whole time."""
    first = next(batches(Case(), BatchShape(32), range(1)))

    def late(mask: np.ndarray) -> np.ndarray:
        time.sleep(sleeps_s)
        return mask

    def slowed(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        mask = tf.numpy_function(late, [batch["mask"]], tf.float32)
        return batch | {"mask": tf.ensure_shape(mask, batch["mask"].shape)}

    endless = tf.data.Dataset.from_tensors(first).repeat()
    iterator = iter(endless.map(slowed) if sleeps_s else endless)
    run = compile_step(step)
    run(iterator, 1, False)
    begun = time.perf_counter()
    run(iterator, STEPS, False)
    return step.pace, time.perf_counter() - begun


def test_waiting_for_input_is_told_from_computing(step):
    slow, whole = paced(step, SLEEP_S)
    # A step may begin to ask for the next batch while it computes, so not all of each sleep need be waited for.
    assert 0.5 * STEPS * SLEEP_S < slow.waited_s < slow.own_s < whole
    fast = min(paced(step, 0.0)[0].waited_s for _ in range(3))  # a busy machine makes even that wait now and then
    assert 0 <= fast < 0.2 * slow.waited_s


def test_a_call_starts_its_clocks_anew(step):
    once, _ = paced(step, SLEEP_S)
    again, whole = paced(step, SLEEP_S)
    assert again.own_s < whole and once.own_s > 0
