"""Model parallelism: a model's blocks split over the devices of a worker (`trainer.model.stages`).

A stage is a run of blocks whose variables, optimizer slots and computations are on one device. Stage s of replica r is
on device r + s * replicas, so that the first stages are on the devices which tf.distribute knows. A replica's stages
work one after the other.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from conf.errors import BadSpec
from trainer.model_parts import Block
from trainer.segments import Segment, cut


@dataclass(frozen=True)
class Devices:
    """The devices of a worker: `replicas` of a model, each over `stages`."""

    kind: str  # GPU or CPU
    replicas: int
    stages: int

    def of(self, replica: int, stage: int) -> str:
        """The name of a device; the worker is added by the scope it is used in."""
        return f"/device:{self.kind}:{replica + stage * self.replicas}"

    def here(self, stage: int) -> contextlib.AbstractContextManager[Any]:
        """A scope of the device of this stage, in replica context."""
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        known = number if isinstance(number, int) else int(tf.get_static_value(number))
        return tf.device(self.of(known % self.replicas, stage))


def split(blocks: Sequence[Block], stages: int, name: str) -> list[list[Block]]:
    """Consecutive blocks for each stage, the largest stage as small as can be, counted in parameters. BadSpec where
    there are too few blocks.
    """
    if stages == 1:
        return [list(blocks)]
    if len(blocks) < stages:
        law = f"{name} has {len(blocks)} blocks to split"
        raise BadSpec.of("trainer.model.stages", stages, law, f"at most {len(blocks)}")
    counts = [sum(int(v.shape.num_elements()) for layer in b.layers for v in _values(layer)) for b in blocks]
    # best[k][n]: the largest stage of the first n blocks in k stages, and where the last of them begins.
    best = [{n: (sum(counts[:n]), 0) for n in range(1, len(blocks) + 1)}]
    for number in range(1, stages):
        before = best[-1]
        best.append(
            {
                n: min((max(before[m][0], sum(counts[m:n])), m) for m in range(number, n))
                for n in range(number + 1, len(blocks) + 1)
            }
        )
    ends = [len(blocks)]
    for found in reversed(best):
        ends.append(found[ends[-1]][1])
    bounds = ends[::-1]
    return [list(blocks[first:last]) for first, last in itertools.pairwise(bounds)]


def _values(layer: keras.layers.Layer) -> list[tf.Variable]:
    return [variable.value for variable in layer.variables]


@dataclass(frozen=True)
class Plan:
    """Which stage each variable of a model belongs to, in the order they are created."""

    devices: Devices
    stages: tuple[int, ...]

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """Within it, entered before the strategy's scope, the variables of such a model are created where they belong.

        tf.distribute creates the copy of each replica by itself, in order, under a scope of that replica's first
        device; this scope is asked after it, and so has the last word.
        """
        created = 0

        def create(next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
            nonlocal created
            number, replica = divmod(created, self.devices.replicas)
            created += 1
            with tf.device(self.devices.of(replica, self.stages[number])):
                return next_creator(**kwargs)

        with tf.variable_creator_scope(create):
            yield
        if created != len(self.stages) * self.devices.replicas:
            raise AssertionError(f"{created} variables were created, not {self.devices.replicas} x {len(self.stages)}")


def make_plan(
    build: Callable[[], keras.Model], blocks_of: Callable[[keras.Model], list[Block]], devices: Devices
) -> Plan:
    """The plan of a model, from one that `build` makes outside of any strategy and that is thrown away."""
    created: list[tf.Variable] = []

    def note(next_creator: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
        created.append(next_creator(**kwargs))
        return created[-1]

    with tf.device("/device:CPU:0"), tf.variable_creator_scope(note):
        model = build()
    homes: dict[int, int] = {}
    for segment, stage in staged(model, blocks_of(model), devices.stages, by_block=False):
        for variable in segment.body.variables:
            homes.setdefault(id(variable.value), stage)
    # What belongs to no layer of the graph is with the input.
    return Plan(devices, tuple(homes.get(id(variable), 0) for variable in created))


def staged(model: keras.Model, blocks: Sequence[Block], stages: int, by_block: bool) -> list[tuple[Segment, int]]:
    """Segments of a model with the stage each is on: one a stage, or, `by_block`, one a block."""
    parts = split(blocks, stages, model.name)
    groups = [([block], stage) for stage, part in enumerate(parts) for block in part]
    if not by_block:
        groups = [(part, stage) for stage, part in enumerate(parts)]
    found = [(segment, groups[segment.group][1]) for segment in cut(model, [group for group, _ in groups])]
    busy = {stage for _, stage in found}
    if len(busy) < stages:
        law = f"{model.name} has blocks that compute nothing before those above them, so some devices would be idle"
        raise BadSpec.of("trainer.model.stages", stages, law, f"at most {len(busy)}")
    return found
