"""What optimizers and schedules may be asked for, whether of the training, of a phase or of a part of the model."""

import math

from conf.errors import Problem
from conf.schema import OptimizerSpec, ScheduleSpec
from conf.words import nearest

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lamb", "lion")
SCHEDULES = ("constant", "cosine", "cosine_restarts", "step", "exponential", "polynomial", "one_cycle")
_POSITIVE = ("learning_rate", "reference_batch_size", "clip_norm", "clip_variable_norm", "clip_value")


def problems(key: str, spec: OptimizerSpec) -> list[Problem]:
    """Everything that is wrong with the optimizer at `key`."""
    found = []
    if spec.name not in OPTIMIZERS:
        law = "there is none of this name"
        found.append(Problem(f"{key}.name", spec.name, law, nearest(spec.name, OPTIMIZERS)))
    for name in _POSITIVE:
        value = getattr(spec, name)
        if value is not None and not 0 < value < math.inf:
            cure = f"leave {key}.{name} out for its default, or give a positive number"
            law = "must be greater than 0" if not value > 0 else "must be a finite number"
            found.append(Problem(f"{key}.{name}", value, law, cure))
    if not 0 <= spec.momentum < 1:
        found.append(Problem(f"{key}.momentum", spec.momentum, "is a share in [0, 1)", f"{key}.momentum=0.9"))
    if not 0 <= spec.weight_decay < math.inf:
        law = "is a number, 0 or more"
        found.append(Problem(f"{key}.weight_decay", spec.weight_decay, law, f"{key}.weight_decay=0 switches it off"))
    if not 0 < spec.layer_decay <= 1:
        law = "a block learns no faster than the one above it: a factor in (0, 1]"
        found.append(Problem(f"{key}.layer_decay", spec.layer_decay, law, f"{key}.layer_decay=0.8, or 1 for none"))
    return found


def schedule_problems(key: str, spec: ScheduleSpec) -> list[Problem]:
    """Everything that is wrong with the schedule at `key`."""
    found = []
    if spec.name not in SCHEDULES:
        found.append(Problem(f"{key}.name", spec.name, "there is none of this name", nearest(spec.name, SCHEDULES)))
    for name in ("every_steps", "factor", "power", "cycles"):
        value = getattr(spec, name)
        if value is not None and not 0 < value < math.inf:
            cure = f"leave {key}.{name} out for its default, or give a positive number"
            law = "must be greater than 0" if not value > 0 else "must be a finite number"
            found.append(Problem(f"{key}.{name}", value, law, cure))
    if not 0 <= spec.end_factor <= 1:
        law = "is the share of the learning rate that it falls to, in [0, 1]"
        found.append(Problem(f"{key}.end_factor", spec.end_factor, law, f"{key}.end_factor=0.01"))
    if spec.warmup_steps < 0:
        law = "a number of steps is at least 0"
        found.append(Problem(f"{key}.warmup_steps", spec.warmup_steps, law, f"{key}.warmup_steps=0"))
    return found
