"""Keras optimizers which leave the reduction over replicas to `trainer/step.py`.

A Keras optimizer sums the gradients of all replicas inside `apply`, after it has clipped them: each replica would clip
its own share, and an overflow would be seen by one replica alone. The step needs the sum before that, so it reduces,
and the optimizers made here do not: exactly one of the two may.
"""

from collections.abc import Sequence

import keras

from conf.errors import BadSpec
from conf.schema import OptimizerSpec, TrainerSpec
from trainer.schedules import Rate, learning_rate


def make_optimizer(trainer: TrainerSpec, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a training of `total_steps` steps. Call in the strategy's scope, then `build` it there too."""
    return optimizer_at(trainer.optimizer, learning_rate(trainer, total_steps))


def optimizer_at(spec: OptimizerSpec, rate: Rate, name: str | None = None) -> keras.optimizers.Optimizer:
    """An optimizer with this learning rate. BadSpec where there is none of this kind.

    Keras counts the names of optimizers up; slots that are to be found again want a `name` that stays.
    """
    decay = spec.weight_decay or None
    kinds = {
        "sgd": (keras.optimizers.SGD, {"momentum": spec.momentum, "nesterov": spec.nesterov}),
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.AdamW, {}),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": spec.momentum}),
        "adagrad": (keras.optimizers.Adagrad, {}),
        "lamb": (keras.optimizers.Lamb, {}),
        "lion": (keras.optimizers.Lion, {}),
    }
    if spec.name not in kinds:
        raise BadSpec.of("trainer.optimizer.name", spec.name, "there is none of this name", ", ".join(kinds))
    kind, options = kinds[spec.name]
    if spec.name == "adamw" and decay is None:
        decay = 0.0
    named = {} if name is None else {"name": name}
    return _without_reduction(kind)(learning_rate=rate, weight_decay=decay, **options, **named)


def spare_from_decay(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> None:
    """Let weight decay leave biases and normalisation alone. Before the optimizer is built."""
    spare_variables(optimizer, model.trainable_variables)


def spare_variables(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """The same for these variables: all of less than two dimensions are biases or normalisation."""
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])


def _without_reduction(kind: type) -> type:
    return type(kind.__name__, (kind,), {"_all_reduce_sum_gradients": lambda _, pairs: list(pairs)})
