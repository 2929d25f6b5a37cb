"""Several optimizers on parts of a model, behind one `apply`.

A group is what one OptimizerSpec trains. Its variables may have begun in different phases, and with layer decay they
learn at different rates; Adam's averages and their correction count from a variable's first update. So those of a
group which began together at the same depth share a Keras optimizer: they are a member of the group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from conf import phases as conf_phases
from conf.schema import OptimizerSpec, PhaseSpec, TrainerSpec
from trainer.clipping import clipped
from trainer.model_parts import Block, depths, part_of
from trainer.optimizers import optimizer_at, spare_variables
from trainer.schedules import InPhase, scaled_rate, scheduled

#: Of a variable that belongs to no group.
MAIN = "main"


@dataclass(frozen=True)
class Place:
    """Where a variable belongs in a phase: its group, the phase it began to train in, its depth where that matters."""

    group: str
    begun: int
    depth: int

    @property
    def name(self) -> str:
        """What a checkpoint calls the member."""
        return f"{self.group}-{self.begun}-{self.depth}"


@dataclass(frozen=True)
class Member:
    """An optimizer and what it trains."""

    place: Place
    spec: OptimizerSpec
    optimizer: keras.optimizers.Optimizer
    variables: list[keras.Variable]


def specs_of(trainer: TrainerSpec, phase: PhaseSpec) -> dict[str, OptimizerSpec]:
    """The optimizer of each group of a phase."""
    groups = enumerate(conf_phases.groups_of(trainer, phase), start=1)
    named = {f"group{number}": group.optimizer for number, group in groups}
    return {MAIN: conf_phases.optimizer_of(trainer, phase)} | named


def places(trainer: TrainerSpec, blocks: Sequence[Block]) -> list[dict[str, Place]]:
    """For each phase, the place of every variable that trains in it, by path. With every layer trainable.

    A variable that goes on under an optimizer of the same kind goes on with its slots; else it begins anew.
    """
    found: list[dict[str, Place]] = []
    kinds: dict[str, str] = {}
    depth, key = depths(blocks), conf_phases.name_of_list(trainer)
    for number, phase in enumerate(conf_phases.phases_of(trainer)):
        specs, groups = specs_of(trainer, phase), _groups(trainer, phase, blocks, f"{key}.{number}")
        now: dict[str, Place] = {}
        for layer in part_of(blocks, phase.trainable, f"{key}.{number}.trainable"):
            for path in (variable.path for variable in layer.trainable_variables):
                group = groups.get(path, MAIN)
                goes_on = number > 0 and path in found[-1] and kinds[path] == specs[group].name
                begun = found[-1][path].begun if goes_on else number
                now[path] = Place(group, begun, depth[path] if specs[group].layer_decay < 1 else 0)
        kinds = {path: specs[place.group].name for path, place in now.items()}
        found.append(now)
    return found


def _groups(trainer: TrainerSpec, phase: PhaseSpec, blocks: Sequence[Block], key: str) -> dict[str, str]:
    """The group of each variable that has one, by path; of several the first."""
    found: dict[str, str] = {}
    key = "trainer.groups" if phase.groups is None else f"{key}.groups"
    for number, group in enumerate(conf_phases.groups_of(trainer, phase)):
        for layer in part_of(blocks, group.part, f"{key}.{number}.part"):
            for variable in layer.variables:
                found.setdefault(variable.path, f"group{number + 1}")
    return found


class Optimizers:
    """The members of every group of one phase."""

    def __init__(self, members: Sequence[Member]):
        self.members = list(members)

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Iterations and slots of every member, by name."""
        return {f"{m.place.name}/{variable.path}": variable for m in self.members for variable in m.optimizer.variables}

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each group's next step: that of its uppermost member."""
        tops = {m.place.group: m for m in sorted(self.members, key=lambda member: -member.place.depth)}
        return {group: float(keras.ops.convert_to_numpy(m.optimizer.learning_rate)) for group, m in tops.items()}

    def apply(self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]) -> None:
        """One update of all variables, each group's gradients clipped as its own optimizer asks. In replica context."""
        given = {variable.path: gradient for gradient, variable in zip(gradients, variables, strict=True)}
        for group in {m.place.group: None for m in self.members}:
            members = [member for member in self.members if member.place.group == group]
            paths = [variable.path for member in members for variable in member.variables]
            own = dict(zip(paths, clipped([given[path] for path in paths], members[0].spec), strict=True))
            for member in members:
                member.optimizer.apply([own[variable.path] for variable in member.variables], member.variables)

    def take_over(self, before: "Optimizers", phase: int) -> None:
        """Go on with the iterations and slots of what trained in the phase before this one."""
        iterations = {m.place.begun: m.optimizer.iterations for m in before.members}
        slots = {variable.path: variable for m in before.members for variable in m.optimizer.variables}
        for member in self.members:
            if member.place.begun == phase:
                continue
            for variable in member.optimizer.variables:
                source = slots.get(variable.path)
                if variable is member.optimizer.iterations:
                    source = iterations[member.place.begun]
                if source is not None:
                    variable.assign(source.numpy())


def make_optimizers(
    trainer: TrainerSpec,
    number: int,
    where: Mapping[str, Place],
    variables: Sequence[keras.Variable],
    steps: int,
    updates: Sequence[int],
    factor: tf.Variable | None = None,
) -> Optimizers:
    """The optimizers of phase `number`, which takes `steps`. Call in the strategy's scope.

    `updates[p]` is how many updates had been made when phase p began. Every rate is multiplied by `factor`.
    """
    phase = conf_phases.phases_of(trainer)[number]
    specs, schedule = specs_of(trainer, phase), conf_phases.schedule_of(trainer, phase)
    members: dict[Place, list[keras.Variable]] = {}
    for variable in variables:
        members.setdefault(where[variable.path], []).append(variable)
    made = []
    for place, own in members.items():
        spec = specs[place.group]
        peak = scaled_rate(spec, trainer.global_batch_size) * spec.layer_decay**place.depth
        rate = InPhase(scheduled(peak, schedule, steps), updates[number] - updates[place.begun], factor)
        optimizer = optimizer_at(spec, rate, spec.name)
        spare_variables(optimizer, own)
        optimizer.build(own)
        made.append(Member(place, spec, optimizer, own))
    return Optimizers(made)
