"""Words on the command line -> a typed JobSpec. What Hydra refuses becomes a BadSpec with the nearest spelling."""

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import conf
from conf.errors import BadSpec, Problem
from conf.register import register
from conf.schema import JobSpec
from conf.words import closest
from launcher import axes
from launcher.inside import NoSuchKey, hint_at, problems_inside, types_of

GROUPS = ("data", "trainer", "cluster", "storage", "submit", "experiment")
#: Below this anything may stand: each model family has its own.
FREE = "trainer.model.options."
#: Keys of what a recipe lists, by its place.
IN_A_LIST = re.compile(r"trainer\.(phases|fine_tuning|groups)\.\d+\.[\w.]+")
#: How values of these types are written.
LOOKS = {
    int: r"[+-]?\d+",
    float: r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf|nan)",
    bool: r"(?i)true|false|yes|no|on|off|1|0",
}
#: What other programs call them.
ALIASES = {
    "lr": "learning_rate",
    "batch": "global_batch_size",
    "batch_size": "global_batch_size",
    "bs": "global_batch_size",
    "wd": "weight_decay",
    "num_epochs": "epochs",
    "max_steps": "steps",
    "num_workers": "workers",
    "gpus": "gpus_per_worker",
    "num_gpus": "gpus_per_worker",
    "dtype": "precision",
}
CONFIG_DIR = Path(conf.__file__).parent


@dataclass(frozen=True)
class Asked:
    """A job as it was asked for: the whole of it, and which parts the command line spoke of."""

    job: JobSpec
    touched: frozenset[str]
    #: The groups and keys as they were typed, dotted.
    typed: frozenset[str]
    #: The words themselves.
    words: tuple[str, ...] = ()


def compose(words: Sequence[str]) -> Asked:
    """The job that `words` (group=option, key=value) ask for, over the defaults of conf/config.yaml."""
    register()
    asked = tuple(words)
    if axes.SWEEP in words:
        words, varied = axes.split(words)
        words += [f"{axis.key}={axis.first}" for axis in varied]
    words = [_literal(word) for word in words]
    keys = [_key(word) for word in words]
    problems = [problem for word, key in zip(words, keys, strict=True) for problem in _key_problems(word, key)]
    if problems:
        raise BadSpec(problems)
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("conf", version_base="1.3"):
            composed = hydra.compose("config", overrides=[_opened(word) for word in words])
        job = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:  # the last: a list of none
        raise _explain(error, words) from error
    assert isinstance(job, JobSpec)
    return Asked(job, touched_parts(keys), frozenset(keys), asked)


def takes_whole_numbers(key: str) -> bool:
    """Whether a key of the schema is a number without a fraction."""
    return key in known_keys() and int in types_of(hint_at(JobSpec, key))


def touched_parts(keys: Sequence[str]) -> frozenset[str]:
    """The parts of a job that these keys speak of; an experiment speaks of all of them."""
    first = {key.lstrip("+~").split("@")[0].split(".")[0].split("/")[0] for key in keys}
    every = {field.name for field in dataclasses.fields(JobSpec)}
    return frozenset(every if "experiment" in first else first)


def known_keys(schema: type = JobSpec, prefix: str = "") -> Iterator[str]:
    """Every key of the schema, dotted."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from known_keys(hints[field.name], f"{prefix}{field.name}.")


def options(group: str) -> list[str]:
    """The options of a group: the YAML files in its folder."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def nearest(word: str, known: Sequence[str]) -> str:
    """'did you mean ...?' with the closest of `known`, or nothing."""
    close = closest(word, known)
    return f"did you mean {close}?" if close else ""


def _last_word(key: str, known: Sequence[str]) -> str:
    """The key that was probably meant, where the last part of `key` alone, or what it stands for, says so."""
    last = key.rpartition(".")[2]
    last = ALIASES.get(last, last)
    same = [name for name in known if name.rpartition(".")[2] == last]
    return max(same, key=lambda name: difflib.SequenceMatcher(None, key, name).ratio()) if same else key


def _literal(word: str) -> str:
    """The word, its value quoted for Hydra where the key takes text, so that blanks, commas and letters of any language
    mean themselves. What is quoted already, and null, stay as they are.
    """
    name, is_override, value = word.partition("=")
    key = name.lstrip("+")
    if not is_override or key not in known_keys() or str not in types_of(hint_at(JobSpec, key)):
        return word
    with contextlib.suppress(HydraException):
        parsed = OverridesParser.create().parse_override(word).value()
        if parsed is None or isinstance(parsed, str | QuotedString):
            return word
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{name}='{escaped}'"


def _key(word: str) -> str:
    try:
        return OverridesParser.create().parse_override(word).key_or_group
    except HydraException as error:
        law = "a word is group=option or key=value"
        cure = "quote values with strange characters: 'key=\"a,b\"'; --help shows examples"
        raise BadSpec.of("command line", word, law, cure) from error


def _key_problems(word: str, key: str) -> list[Problem]:
    """What can be said of a word without composing: its key must be known, and an option's file must exist."""
    value = word.partition("=")[2]
    if word.startswith("~"):
        return [Problem("command line", word, "nothing can be taken away from a job", "give the key another value")]
    if "@" in word.partition("=")[0]:
        return [Problem("command line", word, "groups stay where they are", f"{word.partition('@')[0]}={value}")]
    if key in GROUPS:
        available = options(key)
        if value in available or (key == "experiment" and value == "null"):
            return []
        cure = f"{nearest(value, available)} known: {', '.join(available) or 'none'}".strip()
        return [Problem(key, value, f"there is no such option of {key}", cure)]
    keys = list(known_keys())
    if key in keys or key.startswith(FREE) or IN_A_LIST.fullmatch(key):
        return []
    close = nearest(_last_word(key, keys), [*keys, *GROUPS])
    general = "--help shows the groups and the keys most used; conf/schema.py has them all"
    return [Problem(key, value, "there is no such key", close or general)]


def _opened(word: str) -> str:
    """Hydra wants a plus before keys that the schema does not list one by one, alone or all in one word."""
    bare = word.lstrip("+")
    return f"++{bare}" if bare.startswith((FREE, f"{FREE.rstrip('.')}=")) else word


def _explain(error: Exception, words: Sequence[str]) -> BadSpec:
    """The refusal of the first word with a wrong key or value; Hydra's own first line where none is found."""
    for word in words:
        key, _, text = word.lstrip("+").partition("=")
        if key in GROUPS or key.startswith(FREE):
            continue
        try:
            hint = hint_at(JobSpec, key)
        except NoSuchKey as unknown:
            cure = nearest(key.rpartition(".")[2], unknown.known) or f"known: {', '.join(unknown.known)}"
            return BadSpec.of(key, text, "there is no such key", cure)
        value = OverridesParser.create().parse_override(word).value() if text.startswith(("[", "{")) else text
        if problems := list(problems_inside(key, value, hint, _wrong)):
            return BadSpec(problems)
        if IN_A_LIST.fullmatch(key) and (isinstance(error, AssertionError) or key in str(error)):
            there = "list to change" if isinstance(error, AssertionError) else "place in its list"
            law, whole = f"the recipe has no such {there}", ".".join(key.split(".")[:2])
            return BadSpec.of(key, text, law, f"give the list as a whole: '{whole}=[{{...}}, {{...}}]'")
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return BadSpec.of("command line", " ".join(words), first, "--help shows the keys and groups")


def _wrong(text: str, hint: Any) -> Problem | None:
    """What is wrong with a value, whatever its key."""
    if _fits(text, hint):
        return None
    return Problem("", text, f"must be {_wanted(hint)}", _cure(text, hint))


def _fits(value: str, hint: Any) -> bool:
    if hint is Any:
        return True
    types = types_of(hint)
    if value == "null":
        return type(None) in types
    if (value.startswith("[") and any(map(_is_list, types))) or (value.startswith("{") and any(map(_is_group, types))):
        return True  # what is in it is Hydra's to judge
    return any(kind is str or re.fullmatch(LOOKS.get(kind, "(?!)"), value) or _is_member(value, kind) for kind in types)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _is_group(kind: Any) -> bool:
    return get_origin(kind) is dict or dataclasses.is_dataclass(kind)


def _is_member(value: str, kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum) and value in kind.__members__


def _wanted(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null", str: "text"}
    wanted = []
    for kind in types_of(hint):
        if isinstance(kind, type) and issubclass(kind, Enum):
            wanted.append(f"one of {', '.join(kind.__members__)}")
        else:
            wanted.append("a list" if _is_list(kind) else words.get(kind, "a group of keys"))
    return " or ".join(wanted)


def _cure(value: str, hint: Any) -> str:
    """A cure for a value of another type; {key} stands for its key."""
    kinds = types_of(hint)
    if any(map(_is_list, kinds)):
        return "a list stands in brackets: '{key}=[" + ("{...}" if value.startswith("{") else value) + "]'"
    if (
        any(dataclasses.is_dataclass(kind) and "name" in get_type_hints(kind) for kind in kinds)
        and value.isidentifier()
    ):
        return f"{{key}}.name={value}"
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    members = [name for kind in enums for name in kind.__members__]
    return nearest(value, members) or "give such a value, or leave the key out"
