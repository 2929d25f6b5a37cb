"""What a sweep varies: words with several values, in Hydra's own grammar, and the trials they make. Pure.

key=1,2            these values; the same: 'key=choice(1,2)'
key=range(1,5)     1, 2, 3, 4
key=interval(1,2)  any number between them, in a random sweep; 'key=tag(log,interval(1e-4,1e-1))' by its logarithm
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from conf.errors import BadSpec
from conf.schema import SweepKind, SweepSpec

SWEEP = "job=sweep"
#: Words that are the sweep's own: all its trials share them, and lie side by side.
OWN = ("job", "run_id", "dry_run", "sweep", "storage")
#: Draws in a row that give nothing new: there is nothing new left.
TRIES = 200
#: The values of one trial, as they are typed, by key.
Values = dict[str, str]


@dataclass(frozen=True)
class Axis:
    """A key and what it may be: one of `values`, or where there are none any number from `low` to `high`."""

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False

    @property
    def first(self) -> str:
        """A value of it."""
        return self.values[0] if self.values else _typed(self.low, self.is_whole)

    def draw(self, generator: random.Random) -> str:
        """A random one."""
        if self.values:
            return self.values[generator.randrange(len(self.values))]
        if self.is_whole:
            return str(generator.randint(math.ceil(self.low), math.floor(self.high)))
        if self.is_log:
            return _typed(math.exp(generator.uniform(math.log(self.low), math.log(self.high))), False)
        return _typed(generator.uniform(self.low, self.high), False)


def split(words: Sequence[str]) -> tuple[list[str], list[Axis]]:
    """The words with one value each, and the axes that the others are."""
    fixed, axes = [], []
    for word in words:
        axis = _axis(word)
        if axis is None:
            fixed.append(word)
            continue
        if axis.key.split(".")[0] in OWN:
            law = "is the sweep's own, and the same for all its trials"
            raise BadSpec.of(axis.key, word.partition("=")[2], law, "one value; a sweep varies data, trainer or seed")
        axes.append(axis)
    return fixed, axes


def trials(axes: Sequence[Axis], asked: SweepSpec) -> list[Values]:
    """The values of each trial, in order. Those of a longer random sweep begin with those of a shorter one."""
    if not axes:
        law = "a sweep varies at least one key"
        raise BadSpec.of("job", "sweep", law, "give a key several values: trainer.optimizer.learning_rate=0.1,0.01")
    if asked.kind is SweepKind.random:
        return list(_drawn(axes, asked))
    for axis in axes:
        if not axis.values:
            law, cure = "a grid needs values, and this is an interval", f"{axis.key}=1,2,3, or sweep.kind=random"
            raise BadSpec.of(axis.key, f"interval({axis.low:g},{axis.high:g})", law, cure)
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*(axis.values for axis in axes))]


def _drawn(axes: Sequence[Axis], asked: SweepSpec) -> Iterator[Values]:
    if asked.trials is None:
        law = "a random sweep has a length"
        raise BadSpec.of("sweep.trials", None, law, "sweep.trials=20")
    generator = random.Random(f"sweep {asked.seed}")
    seen: set[tuple[str, ...]] = set()
    for _ in range(asked.trials):
        for _ in range(TRIES):
            drawn = tuple(axis.draw(generator) for axis in axes)
            if drawn not in seen:
                break
        else:
            return  # every combination was drawn
        seen.add(drawn)
        yield dict(zip((axis.key for axis in axes), drawn, strict=True))


def _axis(word: str) -> Axis | None:
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        return None  # composing says what is wrong with it
    if not parsed.is_sweep_override():
        return None
    if parsed.is_interval_sweep():
        return _interval(parsed, word)
    try:
        values = tuple(parsed.sweep_string_iterator())
    except HydraException as error:
        raise BadSpec.of("command line", word, "these are no values", f"{parsed.key_or_group}=1,2,3") from error
    if not values:
        raise BadSpec.of("command line", word, "there is no value in it", f"{parsed.key_or_group}=1,2,3")
    return Axis(parsed.key_or_group, values)


def _interval(parsed: Override, word: str) -> Axis:
    found = parsed.value()
    assert isinstance(found, IntervalSweep) and found.start is not None and found.end is not None
    low, high, is_log = float(found.start), float(found.end), "log" in found.tags
    if not low < high or (is_log and low <= 0):
        law = "an interval goes from a smaller to a larger number" + (", above 0 for its logarithm" if is_log else "")
        raise BadSpec.of("command line", word, law, f"'{parsed.key_or_group}=tag(log,interval(1e-4,1e-1))'")
    return Axis(parsed.key_or_group, (), low, high, is_log)


def _typed(value: float, is_whole: bool) -> str:
    return str(math.ceil(value)) if is_whole else f"{value:.6g}"
