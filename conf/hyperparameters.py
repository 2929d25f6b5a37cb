"""The hyperparameters of a job that TensorBoard shall show: dotted keys, and what they are. Pure."""

import dataclasses
from collections.abc import Iterator
from enum import Enum
from typing import Any

from conf.schema import JobSpec

#: What TensorBoard's HParams plugin takes.
Value = bool | float | str


class NoSuchKey(LookupError):
    """A job has no key of this name."""


def hyperparameters(job: JobSpec) -> dict[str, Value]:
    """Key and value of each; of a part of the job every value below it. Raises NoSuchKey."""
    found: dict[str, Value] = {}
    for key in job.trainer.tensorboard.hparams:
        found |= dict(_values(key, _at(job, key)))
    return found


def _at(job: JobSpec, key: str) -> Any:
    value: Any = job
    for name in key.split("."):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        elif dataclasses.is_dataclass(value) and name in {field.name for field in dataclasses.fields(value)}:
            value = getattr(value, name)
        else:
            raise NoSuchKey(key)
    return value


def _values(key: str, value: Any) -> Iterator[tuple[str, Value]]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _values(f"{key}.{field.name}", getattr(value, field.name))
    elif isinstance(value, dict):
        for name, below in value.items():
            yield from _values(f"{key}.{name}", below)
    elif isinstance(value, bool | str):
        yield key, value
    elif isinstance(value, int | float):
        yield key, float(value)
    elif isinstance(value, Enum):
        yield key, value.name
    else:
        yield key, "null" if value is None else str(value)
