"""A job out of YAML that Convoy wrote, in a tenth of the time that OmegaConf takes for it.

What `dump_job` writes has every key, and every value is of its own type already: nothing is to be filled in, converted
or resolved. Where anything is otherwise, there is no answer from here, and OmegaConf reads the text, or says what is
wrong with it.
"""

import types
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
#: libyaml's parser where PyYAML has it, which takes a tenth of the time.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = (bool, int, float)


class _Otherwise(Exception):
    """This text is not what `dump_job` writes."""


class _Loader(_Base):
    """YAML's plain values, as SafeLoader makes them, with no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            raise _Otherwise
        return found


def read_exactly(kind: type[T], text: str) -> T | None:
    """The dataclass that `text` describes, when it does so key by key and type by type; None when it does not."""
    try:
        found: T = _dataclass(kind, yaml.load(text, _Loader))
        return found
    except (_Otherwise, yaml.YAMLError, ValueError):
        return None


def _dataclass(kind: Any, value: object) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        raise _Otherwise
    return kind(**{name: _of(hint, value[name]) for name, hint in hints.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _of(hint: Any, value: object) -> Any:
    """The value as a field of this type has it."""
    if hint is Any:
        return _any(value)
    if hint is str and isinstance(value, str):
        return _text(value)
    if hint in _PLAIN and type(value) is hint:
        return value
    if get_origin(hint) in (Union, types.UnionType):
        return None if value is None else _of(_only(each for each in get_args(hint) if each is not type(None)), value)
    if get_origin(hint) is list and isinstance(value, list):
        return [_of(_only(get_args(hint)), each) for each in value]
    if hint == dict[str, Any] and isinstance(value, dict):
        return _any(value)
    if isinstance(hint, type) and issubclass(hint, Enum) and isinstance(value, str) and value in hint.__members__:
        return hint[value]
    if is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, value)
    raise _Otherwise


def _only(hints: Iterable[Any]) -> Any:
    """The one type that a value may have beside None."""
    (hint,) = hints
    return hint


def _any(value: object) -> Any:
    """A value of any type, which is nobody else's: two names of one list become two lists."""
    if isinstance(value, dict):
        return {_text(key): _any(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_any(each) for each in value]
    return value if value is None or type(value) in _PLAIN else _text(value)


def _text(value: object) -> str:
    """A string that says nothing but itself: no reference, nothing missing, no number in OmegaConf's eyes alone."""
    if type(value) is not str or "${" in value or value == "???":
        raise _Otherwise
    try:
        float(value.replace("_", ""))
    except ValueError:
        return value
    raise _Otherwise
