"""Trainings of ten steps in phases and by groups, by our step and by plain Keras: `layer.trainable` and one optimizer
object for each set of layers, kept for as long as these layers train.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from conf.phases import phase_steps
from conf.schema import BatchNormSync, GroupSpec, OptimizerSpec, PhaseSpec, ScheduleSpec, TrainerSpec
from data_pipeline.order import BatchShape
from tests.trainer.arithmetic import BATCH, CLASSES, Case, batches, digits, new_model
from trainer.averages import WeightAverages
from trainer.batch_norm import averaging, batch_norms, statistics_of
from trainer.model_parts import blocks_of
from trainer.models.convnet import BLOCKS
from trainer.objective import Objective, regularise
from trainer.phases import Phases, rate_factor
from trainer.precision import LossScale
from trainer.step import TrainingStep

#: Layers of the model with weights, by block.
ONE, TWO, HEAD = ["conv1", "norm1"], ["conv2", "norm2", "hidden"], ["logits"]
Rate = Callable[[int], float]


@dataclass
class Stretch:
    """Steps in which some layers train: (names, their optimizer, its rate at each step of the stretch)."""

    steps: int
    trained: list[tuple[list[str], keras.optimizers.Optimizer, Rate]]


@dataclass(frozen=True)
class Phased:
    """A training as our configuration says it, and the same in plain Keras."""

    trainer: TrainerSpec
    plain: Callable[[], list[Stretch]]
    accumulation: int = 1
    case: Case = field(default_factory=lambda: Case(batch_norm=BatchNormSync.synchronized))
    overflows: tuple[int, ...] = ()  # steps, from 0, whose scaled gradient is infinite: they are skipped
    lowered: tuple[tuple[int, float], ...] = ()  # steps of its one phase, and what a plateau multiplies rates by then


def flat(rate: float) -> Rate:
    return lambda step: rate


def cosine(peak: float, steps: int, warmup: int = 0) -> Rate:
    def at(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    return at


def _three_phases() -> list[Stretch]:
    head, upper, rest = (keras.optimizers.Adam() for _ in range(3))
    first, second, third = flat(0.01), cosine(0.004, 4, 1), cosine(0.002, 4)
    return [
        Stretch(2, [(HEAD, head, first)]),
        Stretch(4, [(HEAD, head, second), (TWO, upper, second)]),
        Stretch(4, [(HEAD, head, third), (TWO, upper, third), (ONE, rest, third)]),
    ]


def _another_kind() -> list[Stretch]:
    rate = cosine(0.02, 6)
    return [
        Stretch(4, [(HEAD, keras.optimizers.Adam(), flat(0.01))]),
        Stretch(6, [(ONE + TWO + HEAD, keras.optimizers.SGD(momentum=0.9), rate)]),
    ]


def _two_groups() -> list[Stretch]:
    backbone = keras.optimizers.SGD(momentum=0.9, global_clipnorm=0.05)
    return [Stretch(10, [(ONE + TWO, backbone, flat(0.05)), (HEAD, keras.optimizers.Adam(), flat(0.01))])]


def _layer_decay() -> list[Stretch]:
    parts = {0: HEAD, 1: TWO, 2: ONE}
    made = {depth: keras.optimizers.AdamW(weight_decay=0.1) for depth in parts}
    for optimizer in made.values():
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return [Stretch(10, [(names, made[depth], flat(0.01 * 0.5**depth)) for depth, names in parts.items()])]


def _frozen_body() -> list[Stretch]:
    return [Stretch(10, [(HEAD, keras.optimizers.Lion(), cosine(0.002, 10))])]


def _whole_model() -> list[Stretch]:
    return [Stretch(8, [(ONE + TWO + HEAD, keras.optimizers.Adam(), cosine(0.01, 10))])]


def _lowered() -> list[Stretch]:
    body, head = keras.optimizers.SGD(momentum=0.9), keras.optimizers.Adam()
    falls, factors = [cosine(peak, 10, 2) for peak in (0.05, 0.01)], [1.0] * 4 + [0.5] * 3 + [0.05] * 3
    slow, fast = (lambda step, at=at: factors[step] * at(step) for at in falls)
    return [Stretch(10, [(ONE + TWO, body, slow), (HEAD, head, fast)])]


def _head_then_all() -> list[Stretch]:
    everything = keras.optimizers.SGD(momentum=0.9)
    head = keras.optimizers.SGD(momentum=0.9)
    return [
        Stretch(4, [(HEAD, head, flat(0.05))]),
        Stretch(6, [(HEAD, head, flat(0.05)), (ONE + TWO, everything, flat(0.05))]),
    ]


ADAM = OptimizerSpec(name="adam", learning_rate=0.01)
COSINE = ScheduleSpec(name="cosine")
PHASED = {
    "three-phases": Phased(
        TrainerSpec(
            optimizer=ADAM,
            schedule=COSINE,
            steps=10,
            phases=[
                PhaseSpec(trainable="head", examples=2 * BATCH - 3, schedule=ScheduleSpec()),
                PhaseSpec(
                    trainable=1,
                    steps=4,
                    learning_rate=0.004,
                    schedule=ScheduleSpec(name="cosine", warmup_steps=1),
                ),
                PhaseSpec(optimizer=OptimizerSpec(name="adam", learning_rate=0.002)),
            ],
        ),
        _three_phases,
    ),
    "another-kind": Phased(
        TrainerSpec(
            optimizer=OptimizerSpec(name="sgd", learning_rate=0.02),
            schedule=COSINE,
            phases=[
                PhaseSpec(trainable="head", steps=4, optimizer=ADAM, schedule=ScheduleSpec()),
                PhaseSpec(trainable="conv1", steps=6),
            ],
        ),
        _another_kind,
        accumulation=2,
        case=Case(),
    ),
    "two-groups": Phased(
        TrainerSpec(
            optimizer=OptimizerSpec(name="sgd", learning_rate=0.05, clip_norm=0.05),
            groups=[GroupSpec("head", ADAM)],
            steps=10,
        ),
        _two_groups,
    ),
    "layer-decay": Phased(
        TrainerSpec(
            optimizer=OptimizerSpec(name="adamw", learning_rate=0.01, weight_decay=0.1, layer_decay=0.5), steps=10
        ),
        _layer_decay,
        accumulation=4,
        case=Case(),
    ),
    "averaged": Phased(
        TrainerSpec(
            optimizer=OptimizerSpec(name="sgd", learning_rate=0.05),
            phases=[PhaseSpec(trainable="head", steps=4), PhaseSpec(steps=6)],
            l2=0.02,
            ema_decay=0.4,
        ),
        _head_then_all,
    ),
    "skipped": Phased(
        TrainerSpec(optimizer=ADAM, schedule=COSINE, steps=10, ema_decay=0.4),
        _whole_model,
        accumulation=2,
        case=Case(),
        overflows=(0, 5),
    ),
    "plateau": Phased(
        TrainerSpec(
            optimizer=OptimizerSpec(name="sgd", learning_rate=0.05),
            groups=[GroupSpec("head", ADAM)],
            schedule=ScheduleSpec(name="cosine", warmup_steps=2),
            steps=10,
        ),
        _lowered,
        case=Case(),
        lowered=((4, 1.0), (3, 0.5), (3, 0.05)),
    ),
    "frozen-body": Phased(
        TrainerSpec(
            optimizer=OptimizerSpec(name="lion", learning_rate=0.002, weight_decay=0.0),
            schedule=COSINE,
            phases=[PhaseSpec(trainable="head", steps=10)],
        ),
        _frozen_body,
    ),
}

#: Averages where each replica's BatchNorm has statistics of its own, so that there is no reference in plain Keras.
AVERAGED_STATISTICS = Phased(
    TrainerSpec(optimizer=OptimizerSpec(name="sgd", learning_rate=0.05), steps=10, ema_decay=0.4),
    list,
    case=Case(batch_norm=BatchNormSync.average),
)


def by_plain_keras(phased: Phased) -> dict[str, np.ndarray]:
    """The weights after the plain loop, on one replica; where they are averaged, the averages over their history."""
    model = new_model(Case(batch_norm=phased.case.batch_norm and BatchNormSync.average))
    images, labels = digits()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    step, history = 0, [{variable.path: variable.numpy() for variable in model.variables}]
    for stretch in phased.plain():
        names = [name for group, _, _ in stretch.trained for name in group]
        for layer in model.layers:
            layer.trainable = layer.name in names
        for place in range(stretch.steps):
            step += step in phased.overflows
            rows = slice(step * BATCH, (step + 1) * BATCH)
            with tf.GradientTape() as tape:
                loss = loss_of(labels[rows], model(images[rows], training=True))
                kernels = [v for v in model.trainable_variables if v.path.endswith("kernel")]
                loss += phased.trainer.l2 * tf.add_n([tf.reduce_sum(tf.square(v.value)) for v in kernels])
            variables = model.trainable_variables
            gradients = dict(zip([v.path for v in variables], tape.gradient(loss, variables), strict=True))
            for group, optimizer, rate in stretch.trained:
                own = [v for name in group if _has(model, name) for v in model.get_layer(name).trainable_variables]
                optimizer.learning_rate = rate(place)
                optimizer.apply([gradients[v.path] for v in own], own)
            step += 1
            history.append({variable.path: variable.numpy() for variable in model.variables})
    return averages_over(history, phased.trainer.ema_decay) if phased.trainer.ema_decay else history[-1]


def averages_over(history: list[dict[str, np.ndarray]], decay: float) -> dict[str, np.ndarray]:
    """Exponential averages over the weights after each step, in float64."""
    averages = {path: value.astype(np.float64) for path, value in history[0].items()}
    for number, weights in enumerate(history[1:]):
        kept = min(decay, (1 + number) / (10 + number))
        averages = {path: kept * average + (1 - kept) * weights[path] for path, average in averages.items()}
    return averages


def overflowing(phased: Phased, shape: BatchShape, replicas: range) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a training; where one overflows, it is by one example, which the last replica alone has."""
    for number, element in enumerate(batches(phased.case, shape, replicas)):
        step, place = divmod(number, len(replicas))
        if step in phased.overflows and replicas[place] == shape.num_replicas - 1:
            element["weight"][-1] = 1e38
        yield element


def by_phases(phased: Phased, strategy: tf.distribute.Strategy, first_replica: int, local_replicas: int) -> keras.Model:
    """The model after our step, one after the other phase."""
    shape = BatchShape(BATCH, phased.accumulation, strategy.num_replicas_in_sync)
    replicas = range(first_replica, first_replica + local_replicas)
    trainer = phased.trainer
    trainer.global_batch_size = BATCH
    lengths = phase_steps(trainer, 100)
    with strategy.scope():
        model = new_model(phased.case)
        if trainer.l2:
            regularise(model, trainer.l2)
        averages = WeightAverages(strategy, model, trainer.ema_decay) if trainer.ema_decay else None
        phases = Phases(trainer, model, blocks_of(model, BLOCKS), lengths, rate_factor() if phased.lowered else None)
        # A power of two: without an overflow it changes no bit.
        scale = LossScale() if phased.overflows else None
    first = next(overflowing(phased, shape, replicas))
    signature = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in first.items()}
    source = tf.data.Dataset.from_generator(lambda: overflowing(phased, shape, replicas), output_signature=signature)
    source = source.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: source))
    for number, length in enumerate(lengths):
        with strategy.scope():
            if number:
                phases.go_on(number)
            unroll = phased.case.batch_norm is BatchNormSync.synchronized
            clipping = trainer.optimizer if phases.is_plain else OptimizerSpec()
            statistics = statistics_of(layer for layer in batch_norms(model) if layer.trainable)
            if averages:
                averages.follow([*model.trainable_variables, *statistics])
            micro_batches, objective, optimizer = phased.accumulation, Objective(CLASSES), phases.optimizer
            step = TrainingStep(
                strategy, model, optimizer, objective, clipping, micro_batches, unroll, scale, averages=averages
            )
        for steps, factor in phased.lowered or ((length, 1.0),):
            phases.set_factor(factor)
            step.run(iterator, tf.constant(steps), tf.constant(0.0, tf.float64))
        averaging(strategy, model, averages.averages_of(statistics) if averages else ())()
    if averages:
        averages.swap()
    return model


@functools.cache
def begun(batch_norm: BatchNormSync | None) -> dict[str, np.ndarray]:
    """The weights that every such training begins with."""
    return {variable.path: variable.numpy() for variable in new_model(Case(batch_norm=batch_norm)).variables}


def _has(model: keras.Model, name: str) -> bool:
    return any(layer.name == name for layer in model.layers)
