"""Keras optimizers which leave the reduction over replicas to `trainer/step.py`.

A Keras optimizer sums the gradients of all replicas inside `apply`, after it has clipped them: each replica would clip
its own share, and an overflow would be seen by one replica alone. The step needs the sum before that, so it reduces,
and the optimizers made here do not: exactly one of the two may.
"""

import keras

from conf.errors import BadSpec
from conf.schema import TrainerSpec
from trainer.schedules import learning_rate


def make_optimizer(trainer: TrainerSpec, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a training of `total_steps` steps. Call in the strategy's scope, then `build` it there too."""
    spec = trainer.optimizer
    rate = learning_rate(trainer, total_steps)
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
    return _without_reduction(kind)(learning_rate=rate, weight_decay=decay, **options)


def spare_from_decay(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> None:
    """Let weight decay leave biases and normalisation alone: all variables of less than two dimensions."""
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])


def _without_reduction(kind: type) -> type:
    return type(kind.__name__, (kind,), {"_all_reduce_sum_gradients": lambda _, pairs: list(pairs)})
