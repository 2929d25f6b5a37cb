"""Parts of a model by name: the blocks that a family is built of, the head on top, and what lies above a layer.

Blocks are found by the names of layers, which in every family of keras.applications begin with the block's; a layer
without such a name belongs to the block below it. A family whose names say it otherwise has a pattern `BLOCKS`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from conf.errors import BadSpec
from conf.words import nearest
from trainer.batch_norm import layers_of

HEAD = "head"
#: Below the first block.
STEM = "stem"
_BLOCK = re.compile(
    r"(?:^|_)(stage_?\d+_block_?\d+|conv\d+_block\d+|block_?\d+[a-z]?(?:_\d+(?=_|$))?|expanded_conv(?:_\d+)?)(?=_|$)"
)
#: The blocks of Inception and NASNet have no name but that of the layer they end with.
_END_OF_BLOCK = re.compile(r"mixed_?\d+\w*|(?:normal|reduction)_concat_\w+")


@dataclass(frozen=True)
class Block:
    """A block and its layers, in the order of the model's."""

    name: str
    layers: tuple[keras.layers.Layer, ...]


def blocks_of(model: keras.Model, pattern: re.Pattern[str] | None = None) -> list[Block]:
    """Every layer of the model in its block: the stem first, the head last. `pattern` finds a block's name, group 1."""
    found: dict[str, list[keras.layers.Layer]] = {}
    head: list[keras.layers.Layer] = []
    current, nameless = STEM, 0
    for layer in model.layers:
        match = (pattern or _BLOCK).search(layer.name)
        if layer.name == "logits" or layer.name.startswith("head_"):
            head.append(layer)
        elif pattern is None and _END_OF_BLOCK.fullmatch(layer.name):
            found.setdefault(layer.name, []).extend([*found.pop(f"above {nameless}", []), layer])
            nameless += 1
            current = f"above {nameless}"
        else:
            current = match[1] if match else current
            found.setdefault(current, []).append(layer)
    above = found.pop(f"above {nameless}", [])  # what follows the last of them, such as a pooling
    if above:
        found[next(reversed(found))] += above
    blocks = [Block(name, tuple(layers)) for name, layers in found.items()]
    return [*blocks, Block(HEAD, tuple(head))]


def part_of(blocks: Sequence[Block], part: Any, key: str) -> list[keras.layers.Layer]:
    """The layers of a part as PhaseSpec.trainable says it; `key` names it in a BadSpec."""
    if part == "all":
        return [layer for block in blocks for layer in block.layers]
    if isinstance(part, int):
        if part >= len(blocks):
            known = ", ".join(block.name for block in blocks)
            law = f"the model has {len(blocks) - 1} blocks below its head"
            raise BadSpec.of(key, part, law, f"{key}=all, or a block's name: {known}")
        return [layer for block in blocks[-1 - part :] for layer in block.layers]
    names = [block.name for block in blocks]
    if part in names:
        return [layer for block in blocks[names.index(part) :] for layer in block.layers]
    layers = [layer for block in blocks for layer in block.layers]
    places = [layer.name for layer in layers]
    if part not in places:
        likely, _, _ = nearest(str(part), [*names, *places]).partition("known:")
        law = "the model has no layer or block of this name"
        raise BadSpec.of(key, part, law, f"{likely}blocks: {', '.join(names)}")
    return layers[places.index(part) :]


def train_only(model: keras.Model, layers: Sequence[keras.layers.Layer]) -> None:
    """Make these layers trainable and freeze all others. A frozen BatchNorm is in inference mode, as Keras has it."""
    chosen = {id(layer) for layer in layers}
    for layer in model.layers:
        layer.trainable = id(layer) in chosen


def is_partly_frozen(model: keras.Model) -> bool:
    """Whether some layer with weights of its own does not train."""
    return any(not layer.trainable for layer in layers_of(model) if layer.weights)


def depths(blocks: Sequence[Block]) -> dict[str, int]:
    """How many blocks down from the head each variable is, by its path."""
    return {
        variable.path: depth
        for depth, block in enumerate(reversed(blocks))
        for layer in block.layers
        for variable in layer.variables
    }
