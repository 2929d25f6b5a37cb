"""A learning-rate range test of ten steps on real digits, by `trainer.find_lr` and by plain Keras."""

import functools
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from conf.phases import phase_steps
from conf.schema import FindLrSpec, GroupSpec, JobSpec, OptimizerSpec, TrainerSpec
from data_pipeline.order import BatchShape
from tests.trainer.arithmetic import BATCH, CLASSES, STEPS, Case, batches, digits, new_model, weights_of
from tests.trainer.phased import HEAD, ONE, TWO
from trainer.find_lr import rate_test, try_rates
from trainer.model_parts import blocks_of
from trainer.models.convnet import BLOCKS
from trainer.objective import Objective
from trainer.phases import Phases
from trainer.step import TrainingStep

#: The last batch is not full. A group's rate is to move in proportion.
CASE, LOW, HIGH, RATIO = Case(short=13), 2e-3, 0.05, 10.0
ASKED = JobSpec(
    trainer=TrainerSpec(
        optimizer=OptimizerSpec("adam", 0.7),
        groups=[GroupSpec("head", OptimizerSpec("sgd", 0.7 * RATIO))],
        global_batch_size=BATCH,
        epochs=1,
    ),
    find_lr=FindLrSpec(LOW, HIGH, STEPS),
)


def by_convoy(
    strategy: tf.distribute.Strategy, first_replica: int, local_replicas: int
) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """The model that the test throws away, and the rates and losses that it tells."""
    shape = BatchShape(BATCH, 1, strategy.num_replicas_in_sync)
    replicas = range(first_replica, first_replica + local_replicas)
    job = rate_test(ASKED)
    with strategy.scope():
        model = new_model(CASE)
        phases = Phases(job.trainer, model, blocks_of(model, BLOCKS), phase_steps(job.trainer, 100))
        step = TrainingStep(strategy, model, phases.optimizer, Objective(CLASSES), OptimizerSpec())
    first = next(batches(CASE, shape, replicas))
    signature = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in first.items()}
    source = tf.data.Dataset.from_generator(lambda: batches(CASE, shape, replicas), output_signature=signature)
    source = source.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: source))
    channel = SimpleNamespace(stop_requested=False, say=lambda *_, **__: None)
    session = SimpleNamespace(
        job=job, phases=phases, step=step, channel=channel, training_batches=lambda first_step: iterator
    )
    tried = try_rates(session)
    assert tried is not None
    return model, {"rates": np.array(tried.rates), "losses": np.array(tried.losses)}


@functools.cache
def by_keras() -> dict[str, np.ndarray]:
    """Rates, the loss before the step at each, and the weights behind the last, of a loop on one replica."""
    model, (images, labels) = new_model(CASE), digits(CASE.short)
    body, head = keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rates, losses = np.geomspace(LOW, HIGH, STEPS), []
    layers = {layer.name: layer for layer in model.layers}
    parts = [[layers[name] for name in names if name in layers] for names in (ONE + TWO, HEAD)]
    of_body, of_head = ([v for layer in part for v in layer.trainable_variables] for part in parts)
    for step, rate in enumerate(rates):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        with tf.GradientTape() as tape:
            loss = loss_of(labels[rows], model(images[rows], training=True))
        gradients = tape.gradient(loss, [variable.value for variable in [*of_body, *of_head]])
        losses.append(float(loss))
        body.learning_rate, head.learning_rate = rate, RATIO * rate
        body.apply(gradients[: len(of_body)], of_body)
        head.apply(gradients[len(of_body) :], of_head)
    return {"rates": rates, "losses": np.array(losses)} | weights_of(model)


def compare(found: dict[str, np.ndarray]) -> None:
    """That a test found what plain Keras finds, on a curve that says something."""
    expected, begun = by_keras(), weights_of(new_model(CASE))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["rates"], expected["rates"], rtol=1e-5)
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert expected["losses"][-1] < expected["losses"][0] - 0.05, "nothing was learnt"
    for path, value in begun.items():
        difference = np.abs(found[path] - expected[path]).max()
        assert difference <= 1e-5 * np.abs(expected[path]).max(), f"{path} differs by {difference:.2g}"
        assert np.abs(expected[path] - value).max() > 1e-3 * np.abs(expected[path]).max(), f"{path} did not move"
