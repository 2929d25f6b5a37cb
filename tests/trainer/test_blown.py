"""Which step of a call blew up, and what is no blow-up: the compiled loop on one replica and on two."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from conf.schema import OptimizerSpec, Precision, TrainerSpec
from tests.trainer.arithmetic import CLASSES, Case, digits, new_model
from trainer import precision
from trainer.objective import Objective
from trainer.optimizers import make_optimizer
from trainer.precision import SMALLEST_SCALE
from trainer.step import TrainingStep, compile_step

SIZE = 8


def batches(weights: list[float]) -> Iterator[dict[str, tf.Tensor]]:
    """A batch a step, whose first example weighs this much."""
    images, labels = digits()
    for step, weight in enumerate(weights):
        rows = slice(step * SIZE, (step + 1) * SIZE)
        yield {
            "image": tf.constant(images[rows]),
            "label": tf.constant(labels[rows]),
            "mask": tf.ones(SIZE),
            "weight": tf.constant([weight] + [1.0] * (SIZE - 1)),
            "batch_examples": tf.constant(float(SIZE)),
        }


def linear() -> keras.Model:
    """A layer on the pixels alone: a gradient that overflows is infinite there, and nothing is not a number."""
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])


def trained(
    weights: list[float],
    kind: Precision = Precision.float32,
    scale: float | None = None,
    factor: float | None = None,
    first: int | None = None,
    is_linear: bool = False,
    **clipping: float | None,
) -> TrainingStep:
    """The step after as many steps as there are weights, in one call; with `first`, so many in one before it."""
    precision.set_policy(kind)
    model = linear() if is_linear else new_model(Case())
    spec = OptimizerSpec(name="sgd", learning_rate=0.01, momentum=0.9, **{"clip_norm": 1.0, **clipping})
    optimizer = make_optimizer(TrainerSpec(optimizer=spec), len(weights))
    optimizer.build(model.trainable_variables)
    loss_scale = precision.make_loss_scale(kind)
    if scale is not None:
        assert loss_scale is not None
        loss_scale.scale.assign(scale)
    strategy, objective = tf.distribute.get_strategy(), Objective(CLASSES)
    step = TrainingStep(strategy, model, optimizer, objective, spec, loss_scale=loss_scale, blow_up_factor=factor)
    precision.set_policy(Precision.float32)
    batch = next(batches(weights))
    signature = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in batch.items()}
    iterator = iter(tf.data.Dataset.from_generator(lambda: batches(weights), output_signature=signature))
    run = compile_step(step)
    for count in (len(weights),) if first is None else (first, len(weights) - first):
        run(iterator, count, False)
    return step


@pytest.mark.parametrize(
    ("weights", "number", "words"),
    [
        ([1.0, 1.0, 1.0, 1.0], None, ""),
        ([1.0, 1.0, np.inf, 1.0], 2, "the loss is inf"),
        ([1.0, np.nan, np.inf, 1.0], 1, "the loss is nan"),  # the first, not the last
        ([1.0, 1.0, 1.0, 1e38], 3, "the norm of the gradient inf"),  # of a finite loss
    ],
)
def test_the_first_step_that_is_not_finite_is_found(weights: list[float], number: int | None, words: str) -> None:
    blown = trained(weights).blown
    assert (blown and blown.number) == number
    assert blown is None or words in blown.words


CALM = [1.0] * 11


@pytest.mark.parametrize(
    ("weights", "factor", "number"),
    [
        ([*CALM, 500.0, 1.0], 10.0, 5),  # some 60 times what is usual, which was learnt in the call before
        ([*CALM, 500.0, 1.0], 100.0, None),
        ([*CALM[:7], 500.0, 1.0], 10.0, None),  # too early to know what is usual
    ],
)
def test_a_loss_that_explodes_is_found_where_the_job_says_how_much_is_too_much(weights, factor, number) -> None:
    blown = trained(weights, factor=factor, first=6).blown
    assert (blown and blown.number) == number
    if blown:
        assert np.isfinite(blown.norm) and blown.loss > 10 * blown.usual > 10
        assert f"the loss is {blown.loss:.4g}, and its running mean {blown.usual:.4g}" == blown.words


def test_an_overflow_is_one_however_small_it_is_clipped() -> None:
    step = trained([10.0], Precision.mixed_float16, is_linear=True, clip_norm=None, clip_value=0.01)
    assert step.loss_scale is not None and float(step.loss_scale.scale.numpy()) < precision.INITIAL_SCALE
    assert int(step.optimizer.iterations.numpy()) == 0, "infinity was applied as 0.01"


def test_an_overflow_that_a_smaller_scale_may_cure_is_no_blow_up() -> None:
    weights = [1e4, 1.0, 1.0]
    step = trained(weights, Precision.mixed_float16)
    assert step.blown is None and step.loss_scale is not None
    assert float(step.loss_scale.scale.numpy()) < precision.INITIAL_SCALE, "nothing overflowed: nothing was tried"
    assert int(step.optimizer.iterations.numpy()) < len(weights), "the overflow was applied"


def test_under_the_smallest_scale_it_is_one_and_so_is_a_loss_that_is_no_number() -> None:
    smallest = trained([1.0, 1e8, 1.0], Precision.mixed_float16, SMALLEST_SCALE).blown
    assert smallest is not None and smallest.number == 1 and np.isfinite(smallest.loss)
    nan = trained([1.0, 1.0, np.nan], Precision.mixed_float16).blown
    assert nan is not None and nan.number == 2
