"""Trainings of ten steps on real digits, by our step and by plain Keras: what the tests of law 1 compare."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from conf.schema import (
    BatchNormSync,
    ModelSpec,
    OptimizerSpec,
    Precision,
    Rematerialize,
    ScheduleSpec,
    TrainerSpec,
)
from data_pipeline.order import BatchShape
from tests.trainer.rates import share_of_peak
from trainer import precision
from trainer import step as trainer_step
from trainer.batch_norm import averaging
from trainer.model_parts import blocks_of
from trainer.models import build_model
from trainer.models.convnet import BLOCKS
from trainer.objective import Objective
from trainer.optimizers import make_optimizer, spare_from_decay
from trainer.segmented import segmented_model
from trainer.stages import Devices, make_plan
from trainer.step import TrainingStep

BATCH = 32
STEPS = 10
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One training. `short` leaves out that many examples of the last batch."""

    optimizer: OptimizerSpec = field(
        default_factory=lambda: OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9)
    )
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    accumulation: int = 1
    class_weights: bool = False
    example_weights: bool = False
    label_smoothing: float = 0.0
    short: int = 0
    batch_norm: BatchNormSync | None = None
    l2: float = 0.0
    precision: Precision = Precision.float32
    lanes: int = 1
    mixed: bool = False
    focal: bool = False
    rematerialize: bool = False
    xla: bool = False
    family: str | None = None  # of keras.applications instead of the small network; its images are 32 pixels wide
    steps: int = STEPS


ADAM = OptimizerSpec(name="adam", learning_rate=0.003)
CASES = {
    "sgd": Case(),
    "sgd-accumulated": Case(accumulation=4),
    "adam": Case(ADAM),
    "adam-accumulated": Case(ADAM, accumulation=4),
    "nesterov-and-example-weights": Case(
        OptimizerSpec(name="sgd", learning_rate=0.03, momentum=0.9, nesterov=True),
        ScheduleSpec("cosine_restarts", warmup_steps=2, end_factor=0.1, cycles=2),
        accumulation=2,
        short=13,
        example_weights=True,
    ),
    "class-weights": Case(class_weights=True, accumulation=4),
    "short-batch": Case(ADAM, short=13, class_weights=True),
    "smoothed-and-clipped": Case(dataclasses.replace(ADAM, clip_norm=0.3), label_smoothing=0.1, accumulation=4),
    "regularised": Case(l2=0.01, accumulation=4),
    # Its rate is stated for half the batch: it has to be doubled.
    "decayed-and-scaled": Case(
        dataclasses.replace(ADAM, name="adamw", learning_rate=0.0015, reference_batch_size=BATCH // 2, weight_decay=0.1)
    ),
    "clipped-by-variable": Case(dataclasses.replace(ADAM, clip_variable_norm=0.05), accumulation=2),
    "clipped-by-value": Case(OptimizerSpec(name="sgd", learning_rate=0.05, clip_value=0.01)),
    "focal": Case(ADAM, focal=True, label_smoothing=0.1, class_weights=True, short=13),
    "rmsprop-in-steps": Case(
        dataclasses.replace(ADAM, name="rmsprop"), ScheduleSpec("step", every_steps=3, factor=0.5)
    ),
    "adagrad-exponential": Case(
        dataclasses.replace(ADAM, name="adagrad", learning_rate=0.05), ScheduleSpec("exponential", factor=0.5)
    ),
    "lamb-polynomial": Case(
        dataclasses.replace(ADAM, name="lamb", learning_rate=0.02),
        ScheduleSpec("polynomial", power=2.0, end_factor=0.1),
        accumulation=2,
    ),
    "lion-one-cycle": Case(
        dataclasses.replace(ADAM, name="lion", learning_rate=0.001), ScheduleSpec("one_cycle"), accumulation=2
    ),
    "synchronized-batch-norm": Case(batch_norm=BatchNormSync.synchronized),
    "synchronized-decayed": Case(
        OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=0.1),
        batch_norm=BatchNormSync.synchronized,
    ),
    "synchronized-accumulated": Case(batch_norm=BatchNormSync.synchronized, accumulation=4),
    "lanes": Case(ADAM, short=13, class_weights=True, lanes=2),
    "lanes-accumulated": Case(l2=0.01, accumulation=4, lanes=2),
    "mixed": Case(ADAM, short=13, label_smoothing=0.1, accumulation=2, mixed=True),
    "rematerialized": Case(l2=0.01, short=13, accumulation=4, rematerialize=True),
    "rematerialized-batch-norm": Case(batch_norm=BatchNormSync.synchronized, rematerialize=True),
    "loss-scale": Case(ADAM, precision=Precision.mixed_float16),
    "bfloat16": Case(precision=Precision.mixed_bfloat16, accumulation=2),
    "xla": Case(ADAM, short=13, class_weights=True, xla=True),
    "xla-accumulated": Case(l2=0.01, accumulation=4, xla=True),
}
#: Of the models below: fifty BatchNorms one behind the other make of float32's roundings a tenth of a step's way.
DTYPE = "float64"
#: Models as they are used, with a BatchNorm behind every convolution. By name alone: they take a while.
APPLICATIONS = {
    "mobilenetv2": Case(
        OptimizerSpec(name="sgd", learning_rate=0.01),
        batch_norm=BatchNormSync.synchronized,
        label_smoothing=0.1,
        family="mobilenetv2",
        steps=1,
    ),
}
AVERAGED = Case(batch_norm=BatchNormSync.average)
#: Cases of BatchNorm whose statistics are those of each replica, so that they have no reference in plain Keras.
OWN_STATISTICS = {"averaged-batch-norm": AVERAGED, "xla-averaged": dataclasses.replace(AVERAGED, xla=True)}
KERAS_OPTIMIZERS = (
    keras.optimizers.SGD,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.RMSprop,
    keras.optimizers.Adagrad,
    keras.optimizers.Lamb,
    keras.optimizers.Lion,
)
FOR_FOUR = ("sgd", "adam-accumulated", "class-weights", "short-batch", "mixed", "synchronized-batch-norm")


def enlarged(images: np.ndarray, case: Case) -> np.ndarray:
    """The images as large as the case's model wants them."""
    return images if case.family is None else images.repeat(4, 1).repeat(4, 2)


def unpacked() -> contextlib.AbstractContextManager[object]:
    """Each gradient is reduced by itself: TensorFlow packs none of different types, and the loss is float32."""
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=1)
    return mock.patch.object(trainer_step, "reduction_options", lambda: options)


def digits(short: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first ten batches of the digits: float32 [n, 8, 8, 1] in 0..255 and int32 [n]."""
    images, labels = load_digits(return_X_y=True)
    count = BATCH * STEPS - short
    pixels = (images[:count].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.float32)
    return pixels, labels[:count].astype(np.int32)


def class_weights() -> dict[int, float]:
    """Weights that differ by a factor of five between classes."""
    return {number: 0.5 + 0.2 * number for number in range(CLASSES)}


def example_weights(count: int) -> np.ndarray:
    """Weights that differ from one example to the next: float32 [count], from 0 to 2."""
    return (np.arange(count) % 9 / 4).astype(np.float32)


def second_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each example another label and the share of its own, as if it had been mixed: int32 [n], float32 [n]."""
    return (labels * 3 + 1) % CLASSES, np.linspace(0.5, 1, len(labels), dtype=np.float32)


def new_model(case: Case) -> keras.Model:
    """The same small network with the same first weights, every time.

    The weights come from a generator of their own: Keras draws its seeds from Python's global one, which any thread
    that an earlier test has left behind may move.
    """
    batch_norm = case.batch_norm or BatchNormSync.average
    if case.family is None:
        options = {"filters": [8, 8], "dense": 16, "batch_norm": case.batch_norm is not None}
        model = build_model(ModelSpec(options=options, batch_norm=batch_norm), (8, 8, 1), CLASSES)
    else:
        spec = ModelSpec(case.family, batch_norm=batch_norm, options={"alpha": 0.35})
        model = build_model(spec, (32, 32, 1), CLASSES)
        # Logits are float32 in every model of ours.
        model = keras.Model(model.input, keras.layers.Dense(CLASSES, name="logits")(model.get_layer("logits").input))
    generator = np.random.default_rng(7)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            per_channel = case.family is not None and variable.shape[-1] == 1  # depthwise
            fan_in = np.prod(variable.shape[:2] if per_channel else variable.shape[:-1])
            variable.assign(generator.normal(0, np.sqrt(1 / fan_in), variable.shape).astype(np.float32))
    if case.l2:
        model.get_layer("hidden").kernel.regularizer = keras.regularizers.L2(case.l2)
    return model


def rate_by_keras(case: Case) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as Keras is told it: where it moves, one value after the other, as NumPy has them."""
    spec = case.optimizer
    peak = spec.learning_rate * BATCH / (spec.reference_batch_size or BATCH)
    if case.schedule.name == "constant":
        return peak
    rates = [peak * share_of_peak(case.schedule, step, STEPS) for step in range(STEPS)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(list(range(STEPS - 1)), rates)


def by_keras(case: Case) -> dict[str, np.ndarray]:
    """The weights after plain `fit` with Keras's own optimizer, loss, clipping and class weights, on one replica."""
    spec = case.optimizer
    kinds = {kind.__name__.lower(): kind for kind in KERAS_OPTIMIZERS}
    options: dict[str, float | bool] = {"momentum": spec.momentum} if spec.name in ("sgd", "rmsprop") else {}
    if spec.name == "sgd":
        options["nesterov"] = spec.nesterov
    if spec.weight_decay:
        options["weight_decay"] = spec.weight_decay
    clipping = {"global_clipnorm": spec.clip_norm, "clipnorm": spec.clip_variable_norm, "clipvalue": spec.clip_value}
    optimizer = kinds[spec.name](rate_by_keras(case), **clipping, **options)
    if case.family:
        keras.config.set_dtype_policy(DTYPE)
    model = new_model(dataclasses.replace(case, batch_norm=case.batch_norm and BatchNormSync.average))
    precision.set_policy(Precision.float32)
    if spec.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    kind = keras.losses.CategoricalFocalCrossentropy if case.focal else keras.losses.CategoricalCrossentropy
    loss = kind(from_logits=True, label_smoothing=case.label_smoothing)
    model.compile(optimizer, loss, jit_compile=False)
    images, labels = (values[: BATCH * case.steps] for values in digits(case.short))
    targets = keras.utils.to_categorical(labels, CLASSES)
    if case.mixed:
        other, share = second_labels(labels)
        targets = share[:, None] * targets + (1 - share[:, None]) * keras.utils.to_categorical(other, CLASSES)
    weights = {"class_weight": class_weights()} if case.class_weights else {}
    if case.example_weights:
        weights = {"sample_weight": example_weights(len(images))}
    model.fit(enlarged(images, case), targets, BATCH, shuffle=False, verbose=0, **weights)
    return weights_of(model)


def by_keras_in_parts(case: Case) -> dict[str, np.ndarray]:
    """The same of plain Keras in a loop: the gradients of a step's parts are added up, each with statistics of its own.

    Such a part is what all replicas together take in one pass.
    """
    model = new_model(dataclasses.replace(case, batch_norm=BatchNormSync.average))
    optimizer = keras.optimizers.SGD(case.optimizer.learning_rate, momentum=case.optimizer.momentum)
    assert case == Case(accumulation=case.accumulation, batch_norm=case.batch_norm), "it knows no more than that"
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    images, labels = digits()
    for step in range(STEPS):
        sums = [tf.zeros(variable.shape) for variable in model.trainable_variables]
        for rows in np.split(np.arange(step * BATCH, (step + 1) * BATCH), case.accumulation):
            with tf.GradientTape() as tape:
                loss = loss_of(labels[rows], model(images[rows], training=True)) / BATCH
            gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
            sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
        optimizer.apply(sums, model.trainable_variables)
    return weights_of(model)


def batches(case: Case, shape: BatchShape, replicas: range) -> Iterator[dict[str, np.ndarray]]:
    """What the data pipeline gives: the elements of `replicas`, step by step, the last batch filled up with rubbish."""
    images, labels = digits(case.short)
    second, share = (np.pad(values, (0, case.short)) for values in second_labels(labels))
    rubbish = np.full((case.short, 8, 8, 1), 99, np.float32)
    images = np.concatenate([images, rubbish])
    labels = np.concatenate([labels, np.full(case.short, 3, np.int32)])
    mask = np.concatenate([np.ones(len(images) - case.short), np.zeros(case.short)]).astype(np.float32)
    for step in range(STEPS):
        for replica in replicas:
            rows = step * BATCH + shape.rows(replica)
            real = mask[step * BATCH : (step + 1) * BATCH].sum(dtype=np.float32)
            ones = np.ones(len(rows), np.float32)
            weights = example_weights(len(images))[rows] if case.example_weights else ones
            other = {"label2": second[rows], "weight2": ones, "mix": share[rows]} if case.mixed else {}
            yield other | {
                "image": enlarged(images[rows], case),
                "label": labels[rows],
                "mask": mask[rows],
                "weight": weights,
                "batch_examples": real,
            }


def by_convoy(
    case: Case,
    strategy: tf.distribute.Strategy,
    first_replica: int,
    local_replicas: int,
    devices: Devices | None = None,
) -> keras.Model:
    """The model after our step under `strategy`, two steps a loop, each replica on the stages of `devices`."""
    shape = BatchShape(BATCH, case.accumulation, strategy.num_replicas_in_sync)
    replicas = range(first_replica, first_replica + local_replicas)
    precision.set_policy(case.precision)
    if case.family:
        keras.config.set_dtype_policy(DTYPE)
    placing = contextlib.nullcontext()
    if devices is not None:
        placing = make_plan(lambda: new_model(case), lambda model: blocks_of(model, BLOCKS), devices).placing()
        keras.utils.clear_session(free_memory=False)
    with placing, strategy.scope():
        model = new_model(case)
    with strategy.scope():
        trainer = TrainerSpec(optimizer=case.optimizer, schedule=case.schedule, global_batch_size=BATCH)
        optimizer = make_optimizer(trainer, STEPS)
        spare_from_decay(optimizer, model)
        optimizer.build(model.trainable_variables)
        weights = tuple(class_weights().values()) if case.class_weights else None
        gamma, alpha = (2.0, 0.25) if case.focal else (None, 1.0)
        objective = Objective(CLASSES, case.label_smoothing, weights, gamma, alpha)
        unroll = case.batch_norm is BatchNormSync.synchronized
        scale = precision.make_loss_scale(case.precision)
        trainer.rematerialize = Rematerialize.blocks if case.rematerialize else Rematerialize.none
        step = TrainingStep(
            strategy,
            model,
            optimizer,
            objective,
            case.optimizer,
            case.accumulation,
            unroll,
            scale,
            case.lanes,
            segmented=segmented_model(trainer, model, blocks_of(model, BLOCKS), devices),
            xla=case.xla,
        )
    precision.set_policy(Precision.float32)
    first = next(batches(case, shape, replicas))
    signature = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in first.items()}
    source = tf.data.Dataset.from_generator(lambda: batches(case, shape, replicas), output_signature=signature)
    source = source.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: source))
    packing = contextlib.nullcontext() if case.family is None else unpacked()
    for done in range(0, case.steps, 2):
        with packing:  # while it is traced
            step.run(iterator, tf.constant(min(2, case.steps - done)), tf.constant(0.0, tf.float64))
    averaging(strategy, model)()
    return model


def weights_of(model: keras.Model, replica: int = 0) -> dict[str, np.ndarray]:
    """Every variable of a model by name, as one of this process's replicas has it."""
    return {variable.path: copies_of(variable)[replica].numpy() for variable in model.variables}


def copies_of(variable: keras.Variable) -> list[tf.Variable]:
    """A variable's copies on this process's replicas."""
    copies = getattr(variable.value, "values", None)
    return list(copies) if isinstance(copies, tuple) else [variable.value]


def cases_of(number: int) -> dict[str, Case]:
    """The cases of a group of `number` replicas: all for one and two, the telling ones for four."""
    if number <= 2:
        return CASES | OWN_STATISTICS
    return {name: CASES[name] for name in FOR_FOUR} | {"averaged-batch-norm": AVERAGED}


def strategy_of(kind: str, number: int) -> tf.distribute.Strategy:
    """Mirrored over logical CPUs of this process, or MultiWorkerMirrored over processes."""
    if kind == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
        return tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(number)])
    ring = tf.distribute.experimental.CommunicationImplementation.RING
    options = tf.distribute.experimental.CommunicationOptions(implementation=ring)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
