"""The phases of a training as it runs: which one a step belongs to, what trains in it, by which optimizers."""

import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from conf import phases as conf_phases
from conf.errors import BadSpec
from conf.schema import PhaseSpec, TrainerSpec
from trainer.model_parts import Block, part_of, train_only
from trainer.optimizers import make_optimizer, spare_from_decay
from trainer.parameter_groups import Optimizers, make_optimizers, places

#: One optimizer for everything, or several for parts.
AnyOptimizer: TypeAlias = keras.optimizers.Optimizer | Optimizers


def rate_factor() -> tf.Variable:
    """What a plateau multiplies learning rates by. In the strategy's scope."""
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(1.0, trainable=False, aggregation=aggregation, name="rate_factor")


class Phases:
    """Every phase of a training, and the one at hand. Make it before any layer is frozen, in the strategy's scope."""

    def __init__(
        self,
        trainer: TrainerSpec,
        model: keras.Model,
        blocks: Sequence[Block],
        steps: Sequence[int],
        factor: tf.Variable | None = None,
    ):
        self._trainer, self._model, self._blocks, self._steps, self._factor = trainer, model, blocks, steps, factor
        self.specs: list[PhaseSpec] = conf_phases.phases_of(trainer)
        self.ends = list(accumulate(steps))
        self.is_plain = conf_phases.is_plain(trainer) and factor is None
        self._places = [] if self.is_plain else places(trainer, blocks)
        self.number = 0
        #: How many updates had been made when each phase so far began: fewer than steps where the loss scale skipped.
        self.updates = [0]
        self.optimizer: AnyOptimizer = self._make()

    def at(self, step: int) -> int:
        """The phase of the step that comes after `step` steps; behind the end, the last."""
        return min(bisect.bisect_right(self.ends, step), len(self.ends) - 1)

    @property
    def longest(self) -> int:
        """The phase with the most steps."""
        return max(range(len(self._steps)), key=lambda number: self._steps[number])

    def go_on(self, number: int) -> None:
        """Change to a later phase in the middle of a training: what trains on keeps its slots."""
        before, made = self.optimizer, self._updates_made()
        self.updates += [made] * (number + 1 - len(self.updates))
        self.number = number
        self.optimizer = self._make()
        if isinstance(before, Optimizers) and isinstance(self.optimizer, Optimizers):
            self.optimizer.take_over(before, number)

    def resume(self, saved: dict[str, Any] | None) -> bool:
        """Stand where a checkpoint stood; its slots are still to be restored. Whether that is another phase.

        None: it was saved before phases were.
        """
        if saved is None or (int(saved["number"]), list(saved["updates"])) == (self.number, self.updates):
            return False
        self.number, self.updates = int(saved["number"]), [int(count) for count in saved["updates"]]
        if not 0 <= self.number < len(self.specs) or len(self.updates) != self.number + 1:
            law = f"the checkpoint was saved in phase {self.number + 1} of a training that has {len(self.specs)}"
            key = conf_phases.name_of_list(self._trainer)
            raise BadSpec.of(key, len(self.specs), law, "go on with the job it began with")
        self.optimizer = self._make()
        return True

    def set_factor(self, factor: float) -> None:
        """Multiply every learning rate by what a plateau asks for, if there may be one."""
        if self._factor is not None:
            self._factor.assign(factor)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON."""
        return {"number": self.number, "updates": list(self.updates)}  # a copy: it is written later

    def details(self) -> dict[str, Any]:
        """What an event tells of the phase at hand."""
        spec, count = (
            self.specs[self.number],
            sum(v.value.shape.num_elements() for v in self._model.trainable_variables),
        )
        return {
            "phase": self.number + 1,
            "phases": len(self.specs),
            "steps": self._steps[self.number],
            "what": conf_phases.described(self._trainer, spec),
            "trainable_parameters": count,
        }

    def _make(self) -> AnyOptimizer:
        """Freeze and thaw, then the optimizers of the phase at hand."""
        trainer, number = self._trainer, self.number
        if self.is_plain:
            optimizer = make_optimizer(trainer, self.ends[-1])
            spare_from_decay(optimizer, self._model)
            optimizer.build(self._model.trainable_variables)
            return optimizer
        key = f"{conf_phases.name_of_list(trainer)}.{number}.trainable"
        train_only(self._model, part_of(self._blocks, self.specs[number].trainable, key))
        variables = self._model.trainable_variables
        where = self._places[number]
        return make_optimizers(trainer, number, where, variables, self._steps[number], self.updates, self._factor)

    def _updates_made(self) -> int:
        if not isinstance(self.optimizer, Optimizers):
            return 0
        member = self.optimizer.members[0]
        return int(member.optimizer.iterations.numpy()) + self.updates[member.place.begun]
