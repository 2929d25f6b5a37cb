"""The phases of a training: which there are, how long each is, what is wrong with them. Pure.

Launcher and trainer both ask. What needs the model, such as the name of a layer, `trainer/model_parts.py` checks.
"""

import math
from dataclasses import replace
from typing import Any

from conf import optimizer_rules
from conf.errors import BadSpec, Problem
from conf.schema import GroupSpec, OptimizerSpec, PhaseSpec, ScheduleSpec, TrainerSpec

LENGTHS = ("epochs", "steps", "examples")


def name_of_list(trainer: TrainerSpec) -> str:
    """The key of the phases in use, for errors."""
    return "trainer.phases" if trainer.phases is not None or not _loads_weights(trainer) else "trainer.fine_tuning"


def rate_key(trainer: TrainerSpec, number: int) -> str:
    """The key of the learning rate of a phase, counted from 0."""
    is_listed = trainer.phases is not None or phases_of(trainer) is trainer.fine_tuning
    return f"{name_of_list(trainer)}.{number}.learning_rate" if is_listed else "trainer.optimizer.learning_rate"


def phases_of(trainer: TrainerSpec) -> list[PhaseSpec]:
    """The phases in use: those that were asked for; else, on loaded weights, those of fine-tuning; else a single one.

    Fine-tuning spares what was loaded at first. Without weights there is nothing to spare.
    """
    if trainer.phases is not None:
        return trainer.phases
    if trainer.fine_tuning and _loads_weights(trainer):
        return trainer.fine_tuning
    return [PhaseSpec()]


def optimizer_of(trainer: TrainerSpec, phase: PhaseSpec) -> OptimizerSpec:
    """The optimizer of what belongs to no group."""
    spec = phase.optimizer or trainer.optimizer
    return spec if phase.learning_rate is None else replace(spec, learning_rate=phase.learning_rate)


def schedule_of(trainer: TrainerSpec, phase: PhaseSpec) -> ScheduleSpec:
    """How the learning rates of a phase move."""
    return phase.schedule or trainer.schedule


def groups_of(trainer: TrainerSpec, phase: PhaseSpec) -> list[GroupSpec]:
    """The groups with optimizers of their own."""
    return (trainer.groups if phase.groups is None else phase.groups) or []


def is_plain(trainer: TrainerSpec) -> bool:
    """Whether everything is trained by the trainer's own optimizer and schedule from the first step to the last."""
    phase, *others = phases_of(trainer)
    bare = phase.trainable == "all" and not groups_of(trainer, phase) and trainer.optimizer.layer_decay == 1
    asks = (optimizer_of(trainer, phase), schedule_of(trainer, phase))
    return bare and not others and asks == (trainer.optimizer, trainer.schedule)


def phase_steps(trainer: TrainerSpec, steps_per_epoch: int) -> list[int]:
    """The optimizer steps of each phase. BadSpec where they do not make a training of the length that was asked."""
    total = trainer.steps or (trainer.epochs * steps_per_epoch if trainer.epochs else None)
    batch = trainer.global_batch_size
    lengths = [
        phase.steps
        or (phase.epochs * steps_per_epoch if phase.epochs else None)
        or (math.ceil(phase.examples / batch) if phase.examples else None)
        for phase in phases_of(trainer)
    ]
    known = [length for length in lengths[:-1] if length is not None]
    rest = None if total is None else total - sum(known)
    last = rest if lengths[-1] is None else lengths[-1]
    problem = _misfit(trainer, sum(known), last, total, "steps")
    if problem or last is None:
        raise BadSpec([problem] if problem else [_endless(trainer)])
    return [*known, last]


def problems(trainer: TrainerSpec) -> list[Problem]:
    """Everything that is wrong with phases and groups and can be known without data and model."""
    found = []
    for key, phases in (("trainer.phases", trainer.phases), ("trainer.fine_tuning", trainer.fine_tuning)):
        if phases is not None and not phases:
            found.append(Problem(key, phases, "a training has at least one phase", f"{key}=null"))
        for number, phase in enumerate(phases or []):
            found += _phase(f"{key}.{number}", phase, number == len(phases or []) - 1)
    found += optimizer_rules.problems("trainer.optimizer", trainer.optimizer)
    found += optimizer_rules.schedule_problems("trainer.schedule", trainer.schedule)
    found += _groups("trainer.groups", trainer.groups)
    return found or _sums(trainer)


def described(trainer: TrainerSpec, phase: PhaseSpec) -> str:
    """A phase in a few words: what is trained, how long, by what."""
    given = ((getattr(phase, unit), unit) for unit in LENGTHS if getattr(phase, unit))
    length = next((f"{count} {unit if count != 1 else unit[:-1]}" for count, unit in given), "to the end")
    spec = optimizer_of(trainer, phase)
    words = [part_in_words(phase.trainable), length, f"{spec.name} {spec.learning_rate:g}"]
    for group in groups_of(trainer, phase):
        words.append(f"{part_in_words(group.part)} by {group.optimizer.name} {group.optimizer.learning_rate:g}")
    return ", ".join([*words, schedule_of(trainer, phase).name])


def part_in_words(part: Any) -> str:
    """A part of a model as a person says it."""
    if isinstance(part, int):
        return f"last {part} block{'s' * (part != 1)} and head"
    return part if part in ("all", "head") else f"{part} and above"


def _loads_weights(trainer: TrainerSpec) -> bool:
    return trainer.model.weights != "none"


def _phase(key: str, phase: PhaseSpec, is_last: bool) -> list[Problem]:
    given = {unit: getattr(phase, unit) for unit in LENGTHS if getattr(phase, unit) is not None}
    found = [
        Problem(f"{key}.{unit}", length, "a phase has a length above 0", f"{key}.{unit}=1, or take the phase out")
        for unit, length in given.items()
        if length <= 0
    ]
    if len(given) > 1:
        law = f"a phase has one length, not {len(given)}"
        found.append(Problem(f"{key}.{'+'.join(given)}", "+".join(map(str, given.values())), law, "leave one of them"))
    if not given and not is_last:
        law = "every phase but the last has a length"
        found.append(Problem(f"{key}.epochs", None, law, f"{key}.epochs=1, or steps, or examples"))
    rate = phase.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        found.append(Problem(f"{key}.learning_rate", rate, "is a number above 0", f"{key}.learning_rate=0.001"))
    if phase.optimizer is not None:
        found += optimizer_rules.problems(f"{key}.optimizer", phase.optimizer)
    if phase.schedule is not None:
        found += optimizer_rules.schedule_problems(f"{key}.schedule", phase.schedule)
    return found + _part(f"{key}.trainable", phase.trainable) + _groups(f"{key}.groups", phase.groups)


def _groups(key: str, groups: list[GroupSpec] | None) -> list[Problem]:
    found = []
    for number, group in enumerate(groups or []):
        found += _part(f"{key}.{number}.part", group.part)
        found += optimizer_rules.problems(f"{key}.{number}.optimizer", group.optimizer)
    return found


def _part(key: str, part: Any) -> list[Problem]:
    if (isinstance(part, str) and part) or (isinstance(part, int) and not isinstance(part, bool) and part > 0):
        return []
    law = "a part is all, head, the name of a layer or block, or a number of blocks above 0"
    return [Problem(key, part, law, f"{key}=head trains the head alone")]


def _sums(trainer: TrainerSpec) -> list[Problem]:
    """Where phases and training are stated in the same unit, whether they fit together is known at once."""
    phases = phases_of(trainer)
    unit = "steps" if trainer.steps else "epochs"
    total: int | None = getattr(trainer, unit)
    lengths = [getattr(phase, unit) for phase in phases]
    if total is None:
        last = phases[-1]
        return [] if any(getattr(last, each) for each in LENGTHS) else [_endless(trainer)]
    if (
        total <= 0
        or None in lengths[:-1]
        or (lengths[-1] is None and any(getattr(phases[-1], each) for each in LENGTHS))
    ):
        return []
    known = sum(lengths[:-1])
    problem = _misfit(trainer, known, total - known if lengths[-1] is None else lengths[-1], total, unit)
    return [problem] if problem else []


def _misfit(trainer: TrainerSpec, known: int, last: int | None, total: int | None, unit: str) -> Problem | None:
    if total is None or last is None:
        return None
    key = name_of_list(trainer)
    if last <= 0:
        law = f"the phases before the last take {known} of the training's {total} {unit}: nothing is left for it"
        return Problem(key, known, law, f"a longer training, shorter phases, or {key}=null")
    if known + last != total:
        law = f"the phases add up to {known + last} {unit}, and the training is {total} {unit} long"
        cure = f"leave out the last phase's length, or trainer.{unit}={known + last}, or trainer.{unit}=null"
        return Problem(key, known + last, law, cure)
    return None


def _endless(trainer: TrainerSpec) -> Problem:
    law = "a training has a length, in epochs or in steps (steps wins where both are given)"
    return Problem("trainer.epochs", None, law, "trainer.epochs=10, or trainer.steps=1000")
