"""The models there are: what each file in trainer/models says of itself, read from its text, without TensorFlow.

A file with a function `build` is a family. It serves the model of its own name, unless it has a table of names:

    NAMES = {"resnet50": 224, ...}     the side of the images each was designed for, in pixels; None: any
    MIN_IMAGE_SIZE = 32                the smallest side it takes; 1 where it is left out
    STOCHASTIC_DEPTH = True            it drops residual blocks where `trainer.model.stochastic_depth` asks for it
    LEAST = {"patch": 1, ...}          the smallest number that an option, or each in its list, may be

Parameters of `build` behind its first three are options of the family; their annotations say what they may be.
"""

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from conf.schema import ModelSpec

FOLDER = Path(__file__).resolve().parent.parent / "trainer" / "models"


class Family(NamedTuple):
    """What is known of a model by its name."""

    module: str  # the file in trainer/models, without .py
    image_size: int | None = None
    min_image_size: int = 1
    stochastic_depth: bool = False
    options: Mapping[str, str] = MappingProxyType({})  # what each is, as `build` is annotated
    least: Mapping[str, float] = MappingProxyType({})


@functools.cache
def known() -> Mapping[str, Family]:
    """Every name that `trainer.model.name` may have, sorted."""
    found: dict[str, Family] = {}
    for path in FOLDER.glob("[!_]*.py"):
        found |= _families_in(path)
    return MappingProxyType(dict(sorted(found.items())))


def image_size(model: ModelSpec) -> int | None:
    """The side of the images that a model was designed for, if any; the spec's own word comes first."""
    return model.image_size or _family(model).image_size


def min_image_size(model: ModelSpec) -> int:
    """The smallest side of an image that a model takes; the spec's own word comes first."""
    return model.min_image_size or _family(model).min_image_size


def _family(model: ModelSpec) -> Family:
    """Of a name that nobody knows, nothing is known: it is refused elsewhere."""
    return known().get(model.name, Family(model.name))


def _families_in(path: Path) -> dict[str, Family]:
    says: dict[str, Any] = {}
    options: dict[str, str] | None = None
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "build":
            own = statement.args.args[3:] + statement.args.kwonlyargs
            options = {each.arg: ast.unparse(each.annotation) if each.annotation else "Any" for each in own}
        name = getattr(statement.targets[0], "id", None) if isinstance(statement, ast.Assign) else None
        if isinstance(statement, ast.Assign) and name in ("NAMES", "MIN_IMAGE_SIZE", "STOCHASTIC_DEPTH", "LEAST"):
            says[name] = ast.literal_eval(statement.value)
    if options is None:
        return {}
    told = says.get("MIN_IMAGE_SIZE", 1), says.get("STOCHASTIC_DEPTH", False), options, says.get("LEAST", {})
    names = says.get("NAMES", {path.stem: None})
    return {name: Family(path.stem, size, *told) for name, size in names.items()}
