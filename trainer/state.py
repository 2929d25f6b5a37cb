"""All state of a training, as named tensors and a little JSON, out of the live objects and back into them."""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from conf.errors import BadSpec
from trainer.averages import WeightAverages
from trainer.models.constants import refresh
from trainer.parameter_groups import Optimizers
from trainer.precision import LossScale


@dataclass
class TrainingState:
    """What a checkpoint is made of. `progress` is plain JSON: step, position, window, best values."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer | Optimizers
    loss_scale: LossScale | None
    averages: WeightAverages | None = None
    progress: dict[str, Any] = field(default_factory=dict)

    def variables(self) -> dict[str, tf.Variable]:
        """Every variable by name: model/..., optimizer/..., loss_scale/..., ema/..."""
        named = {f"model/{variable.path}": variable.value for variable in self.model.variables}
        slots = self._slots()
        named |= {f"optimizer/{name}": variable.value for name, variable in slots}
        if self.loss_scale is not None:
            named |= self.loss_scale.variables
        averages = self.averages.variables if self.averages else {}
        named |= averages
        expected = len(self.model.variables) + len(slots) + len(averages)
        expected += len(self.loss_scale.variables) if self.loss_scale else 0
        if len(named) != expected:
            raise ValueError("two variables of the model share a name; give its layers names of their own")
        return named

    def _slots(self) -> list[tuple[str, keras.Variable]]:
        if isinstance(self.optimizer, Optimizers):
            return list(self.optimizer.variables.items())
        return [(variable.path, variable) for variable in self.optimizer.variables]

    def snapshot(self) -> dict[str, tf.Tensor]:
        """The value of every variable now. Copy-on-write: it costs next to nothing until training goes on."""
        firsts = {name: _first(variable) for name, variable in self.variables().items()}
        # What `read_value` does besides costs more than the reading: 20 ms for 550 variables instead of 6.
        return {
            name: tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
            for name, variable in firsts.items()
        }

    def restore(self, tensors: dict[str, np.ndarray], origin: str) -> None:
        """Put the values of a checkpoint into the variables; BadSpec, with names and shapes, where they do not fit."""
        variables = self.variables()
        problems = misfits(
            {name: tuple(v.shape) for name, v in variables.items()}, {n: t.shape for n, t in tensors.items()}
        )
        if problems:
            law = f"the checkpoint {origin} does not fit the model: {'; '.join(problems[:5])}"
            if len(problems) > 5:
                law += f"; and {len(problems) - 5} more"
            cure = "train the model that the checkpoint was written by, or begin anew under another run_id"
            raise BadSpec.of("trainer.model.name", self.model.name, law, cure)
        for name, variable in variables.items():
            variable.assign(tf.convert_to_tensor(tensors[name], variable.dtype))
        refresh(self.model)

    def take_weights(self, tensors: dict[str, np.ndarray]) -> None:
        """Put the weights alone of another checkpoint of the same training into the model, and their averages."""
        for name, variable in self.variables().items():
            if name.startswith(("model/", "ema/")):
                variable.assign(tf.convert_to_tensor(tensors[name], variable.dtype))
        refresh(self.model)


def misfits(own: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]]) -> list[str]:
    """What differs between the shapes of the variables and those of a checkpoint, in words."""
    problems = [f"{name} is missing" for name in own if name not in stored]
    problems += [f"{name} is not in the model" for name in stored if name not in own]
    shared = [name for name in own if name in stored]
    problems += [
        f"{name} has shape {stored[name]}, not {own[name]}" for name in shared if own[name] != tuple(stored[name])
    ]
    return problems


def _first(variable: tf.Variable) -> tf.Variable:
    """This worker's first copy of a variable that has one on every replica."""
    copies = getattr(variable, "values", None)
    return copies[0] if isinstance(copies, tuple) else variable
