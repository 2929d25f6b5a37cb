"""What stands inside of one word: the keys of a group, or of a list of groups, that was typed as a whole. Pure.

'trainer.phases=[{trainable: head, epochs: 2}, {}]', 'trainer.plateau={patience: 3}'
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from conf.errors import Problem
from conf.words import nearest


class NoSuchKey(LookupError):
    """A schema has no such key. `known` are those it has at that place."""

    def __init__(self, known: Sequence[str]):
        super().__init__()
        self.known = known


def types_of(hint: Any) -> tuple[Any, ...]:
    """The types that a key may have."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def hint_at(schema: Any, key: str) -> Any:
    """The type of a dotted key below `schema`; numbers are places in a list. Raises NoSuchKey."""
    for name in key.split("."):
        schema = _below(schema, name)
    return schema


def problems_inside(key: str, value: Any, hint: Any, wrong: Callable[[str, Any], Problem | None]) -> Iterator[Problem]:
    """Keys that are not there, and what `wrong(text, hint)` says of each value, {key} in its cure being the key.

    `value` is as Hydra parsed it.
    """
    groups = [kind for kind in types_of(hint) if dataclasses.is_dataclass(kind)]
    if isinstance(value, list) and (element := _element(hint)) is not None:
        for number, each in enumerate(value):
            yield from problems_inside(f"{key}.{number}", each, element, wrong)
    elif isinstance(value, dict) and groups:
        for name, each in value.items():
            try:
                below = _below(groups[0], str(name))
            except NoSuchKey as error:
                yield Problem(f"{key}.{name}", _text(each), "there is no such key", nearest(str(name), error.known))
            else:
                yield from problems_inside(f"{key}.{name}", each, below, wrong)
    elif (found := wrong(_text(value), hint)) is not None:
        yield found._replace(field=key, cure=found.cure.replace("{key}", key))


def _below(schema: Any, name: str) -> Any:
    if name.isdigit() and (element := _element(schema)) is not None:
        return element
    kinds = types_of(schema)
    if Any in kinds or any(get_origin(kind) is dict for kind in kinds):
        return Any
    known = {
        field: hint for kind in kinds if dataclasses.is_dataclass(kind) for field, hint in get_type_hints(kind).items()
    }
    if name not in known:
        raise NoSuchKey(sorted(known))
    return known[name]


def _element(hint: Any) -> Any:
    """Of what a list is, where the hint allows one."""
    lists = [kind for kind in types_of(hint) if get_origin(kind) is list]
    return get_args(lists[0])[0] if lists else None


def _text(value: Any) -> str:
    """As it is typed."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
