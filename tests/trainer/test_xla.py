"""trainer.compile=xla: what it cannot compile is said in one sentence with its cure, and that it is slow on CPUs.
Beside it, what cannot be promised of trainer.deterministic.

That its update is the same is in test_step.py.
"""

import keras
import pytest
import tensorflow as tf

from conf import rules
from conf.errors import BadSpec
from conf.promises import unkept
from conf.schema import BatchNormSync, Compile, JobSpec, OptimizerSpec, Rematerialize, TrainerSpec
from data_pipeline.order import BatchShape
from tests.trainer.arithmetic import BATCH, CLASSES, Case, batches
from trainer.objective import Objective
from trainer.optimizers import make_optimizer
from trainer.step import TrainingStep, compile_step
from trainer.strategy import configure_devices
from trainer.topology import Topology
from trainer.xla import refusal


class Words(keras.layers.Layer):
    """Goes through text, for which XLA has no type."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inputs, by way of their digits."""
        return inputs + tf.stop_gradient(0 * tf.strings.to_number(tf.strings.as_string(inputs)))


def first_call(xla: bool, *layers: keras.layers.Layer) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    spec = OptimizerSpec(name="sgd")
    optimizer = make_optimizer(TrainerSpec(optimizer=spec), 1)
    optimizer.build(model.trainable_variables)
    step = TrainingStep(tf.distribute.get_strategy(), model, optimizer, Objective(CLASSES), spec, xla=xla)
    batch = next(batches(Case(), BatchShape(BATCH), range(1)))
    compile_step(step)(iter(tf.data.Dataset.from_tensors(batch)), 1, False)


def test_an_operation_that_xla_has_not_is_named_with_the_cure():
    first_call(False, Words())
    with pytest.raises(BadSpec) as refused:
        first_call(True, Words())
    (problem,) = refused.value.problems
    assert problem.field == "trainer.compile" and "AsString" in problem.law and problem.cure == "trainer.compile=none"
    assert "\n" not in str(problem)


def test_another_error_stays_what_it_is():
    assert refusal(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")) is None
    assert refusal(tf.errors.UnavailableError(None, None, "Socket closed")) is None
    assert refusal(tf.errors.InvalidArgumentError(None, None, "CorruptRecord: shard 3")) is None


def test_batch_norm_over_all_replicas_is_refused_before_anything_starts():
    job = JobSpec(trainer=TrainerSpec(steps=1, compile=Compile.xla))
    rules.check(job)
    job.trainer.model.batch_norm = BatchNormSync.synchronized
    with pytest.raises(BadSpec, match=r"trainer\.compile=xla - XLA compiles one replica's forward pass"):
        rules.check(job)


def test_computing_again_what_xla_computes_once_is_refused():
    job = JobSpec(trainer=TrainerSpec(steps=1, compile=Compile.xla, rematerialize=Rematerialize.blocks))
    with pytest.raises(BadSpec, match=r"trainer\.compile=xla - XLA computes what occurs twice once"):
        rules.check(job)


def test_deterministic_kernels_are_switched_on_wherever_they_are_asked_for(monkeypatch):
    """What they leave is in `make models`, on CPUs; of GPUs it is seen that they get the same."""
    switched = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: switched.append("kernels"))
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", switched.append)
    for on_gpu in (False, True):
        configure_devices(JobSpec(), Topology(1, 0, 1, 1, on_gpu), 1, 2)
        assert switched == []
        configure_devices(JobSpec(trainer=TrainerSpec(deterministic=True)), Topology(1, 0, 1, 1, on_gpu), 1, 2)
        assert switched == ["kernels", 1]
        switched.clear()


def test_what_devices_do_not_keep_is_said():
    assert unkept(TrainerSpec(), True) == unkept(TrainerSpec(), False) == {}
    asked = TrainerSpec(compile=Compile.xla, deterministic=True)
    assert list(unkept(asked, on_gpu=False)) == ["xla_on_cpu"]
    (said,) = unkept(asked, on_gpu=True).values()
    assert "trainer.deterministic=true on GPUs" in said and "not in Convoy's hands" in said
