"""What the options of a family of models may be: `trainer.model.options`."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from conf.errors import Problem
from conf.families import Family
from conf.schema import ModelSpec
from conf.words import nearest

KEY = "trainer.model.options"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _are_whole(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_whole, value))


#: By the annotation of a family's function: what a value has to be, in words and as a test. Others are not looked at.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("text", lambda value: isinstance(value, str)),
    "Sequence[int]": ("a list of whole numbers", _are_whole),
}


def problems(model: ModelSpec, family: Family) -> Iterator[Problem]:
    """Everything that is wrong with the options of a model of this family."""
    for name, value in model.options.items():
        if name not in family.options:
            cure = f"{model.name} has no options of its own"
            if family.options:
                cure = nearest(name, list(family.options))
            yield Problem(f"{KEY}.{name}", value, f"{model.name} has no such option", cure)
            continue
        words, fits = _KINDS.get(family.options[name], ("", lambda _: True))
        least = family.least.get(name)
        numbers = value if isinstance(value, list | tuple) else [value]
        if not fits(value):
            yield Problem(f"{KEY}.{name}", value, f"must be {words}", "give such a value, or leave the key out")
        elif least is not None and min(numbers, default=least) < least:
            law = f"must be {least:g} or more{', each' * isinstance(value, list | tuple)}"
            yield Problem(f"{KEY}.{name}", value, law, "give such a value, or leave the key out")
