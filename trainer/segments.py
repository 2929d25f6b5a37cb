"""A model cut into segments that are run one after the other: for rematerialisation, and to place on several devices.

A segment is a part of the model's graph, run as a Keras model over the same layers. Cuts follow the model's blocks. A
layer that needs the output of a later block is moved there, so the segments are in an order in which they can be run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from trainer.model_parts import Block


@dataclass(frozen=True)
class Segment:
    """Part of a model. `inputs` and `outputs` are numbers of tensors that segments hand on; 0 is the model's input.

    The last segment's only output is the model's. `group` is the number of the group of blocks that it is made of.
    """

    name: str
    group: int
    body: keras.Model
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def run(self, given: Sequence[Any], training: bool = True) -> list[Any]:
        """Its outputs from its inputs."""
        return list(keras.tree.flatten(self.body(list(given), training=training)))


def cut(model: keras.Model, groups: Sequence[Sequence[Block]]) -> list[Segment]:
    """The segments of a functional model with one input and one output, one for each group of blocks that has layers.

    Raises ValueError for a model that is no graph of layers.
    """
    if not isinstance(model, keras.src.models.functional.Functional) or len(model.inputs) != 1:
        raise ValueError(f"{model.name} is no functional model of one input")
    members = _members(model, groups)
    numbers = {id(model.inputs[0]): 0}
    tensors = [model.inputs[0]]
    for nodes in members:  # every tensor that leaves its segment, in the order of the graph
        for tensor in _leaving(nodes, members, model):
            numbers[id(tensor)] = len(tensors)
            tensors.append(tensor)
    filled = [number for number, nodes in enumerate(members) if nodes]
    return [_segment(model, number, members[number], groups[number], numbers, tensors) for number in filled]


def _members(model: keras.Model, groups: Sequence[Sequence[Block]]) -> list[list[Any]]:
    """The nodes of each group: those of its layers, and operations without a layer which its tensors go through."""
    home = {id(layer): n for n, group in enumerate(groups) for block in group for layer in block.layers}
    made_in: dict[int, int] = {}
    members: list[list[Any]] = [[] for _ in groups]
    for node in _nodes(model):
        before = [made_in[id(tensor)] for tensor in node.input_tensors]
        number = max([home.get(id(node.operation), 0), *before])
        made_in |= {id(tensor): number for tensor in node.outputs}
        if not node.is_input:
            members[number].append(node)
    return members


def _nodes(model: keras.Model) -> Iterator[Any]:
    """Every call of a layer or operation in the model's graph, in an order in which they can be run."""
    by_depth = model._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from by_depth[depth]


def _leaving(nodes: Sequence[Any], members: Sequence[Sequence[Any]], model: keras.Model) -> list[Any]:
    """The tensors that these nodes make and others need, or the model gives."""
    wanted = {id(model.outputs[0])}
    wanted |= {id(t) for other in members if other is not nodes for node in other for t in node.input_tensors}
    return [tensor for node in nodes for tensor in node.outputs if id(tensor) in wanted]


def _segment(
    model: keras.Model,
    group: int,
    nodes: Sequence[Any],
    blocks: Sequence[Block],
    numbers: dict[int, int],
    tensors: Sequence[Any],
) -> Segment:
    own = {id(tensor) for node in nodes for tensor in node.outputs}
    needed = {id(tensor) for node in nodes for tensor in node.input_tensors} - own
    inputs = tuple(sorted(numbers[tensor] for tensor in needed))
    outputs = tuple(sorted(numbers[tensor] for tensor in own if tensor in numbers))
    name = f"{model.name}_{blocks[0].name}"
    body = keras.Model([tensors[n] for n in inputs], [tensors[n] for n in outputs], name=name)
    return Segment(name, group, body, inputs, outputs)
