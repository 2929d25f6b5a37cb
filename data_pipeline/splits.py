"""Which examples train, validate and test: the source's own splits, or stratified shares drawn by seed."""

from collections.abc import Sequence

import numpy as np

from conf.schema import SplitSpec
from data_pipeline.order import Places, place_to_example
from data_pipeline.sources import ALL, Example, Source

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_NAMES = (TRAIN, VALIDATION, TEST)


def split_examples(source: Source, shares: SplitSpec, seed: int, most: int | None = None) -> dict[str, list[Example]]:
    """The examples of each split, in the order in which they are stored: shuffled by seed, so that classes are mixed.

    `most` are taken of each class of a split of the source, and the first of them are also those of a smaller `most`.
    A source without splits is split by `shares`. One with training and test examples keeps its test split whole; when
    it has no validation split, that is taken from training, so that nothing ever chooses a model by its test score.
    """
    splits = {name: _few(examples, seed, most) for name, examples in source.splits.items() if len(examples)}
    if set(splits) in ({ALL}, {TRAIN}):
        (everything,) = splits.values()
        splits = _stratified(everything, {TRAIN: shares.train, VALIDATION: shares.validation, TEST: shares.test}, seed)
    elif TRAIN in splits and VALIDATION not in splits:
        splits |= _stratified(splits[TRAIN], {TRAIN: shares.train, VALIDATION: shares.validation}, seed)
    return {name: _shuffled(splits[name], seed, number) for number, name in enumerate(_NAMES) if splits.get(name)}


def _few(examples: Sequence[Example], seed: int, most: int | None) -> list[Example]:
    """`most` of each class, drawn by seed, in the order of the source."""
    if most is None:
        return list(examples)
    labels = _labels(examples)
    drawn = [_permuted(labels, label, seed)[:most] for label in np.unique(labels)]
    return [examples[index] for index in np.sort(np.concatenate(drawn)).tolist()]


def _labels(examples: Sequence[Example]) -> Places:
    return np.fromiter((example.label for example in examples), np.int64, len(examples))


def _permuted(labels: Places, label: int, seed: int) -> Places:
    """Where the examples of a class are, shuffled by seed."""
    own = np.flatnonzero(labels == label)
    return own[place_to_example(seed, int(label), np.arange(len(own)), len(own))]


def _stratified(examples: Sequence[Example], shares: dict[str, float], seed: int) -> dict[str, list[Example]]:
    """Each class cut by `shares`; a class with fewer examples than splits is trained on first."""
    labels = _labels(examples)
    chosen: dict[str, list[Places]] = {name: [] for name in shares}
    for label in np.unique(labels):
        own = _permuted(labels, label, seed)
        for name, part in zip(shares, np.split(own, _cuts(len(own), list(shares.values()))), strict=True):
            chosen[name].append(part)
    return {
        name: [examples[index] for index in np.sort(np.concatenate(parts)).tolist()] for name, parts in chosen.items()
    }


def _cuts(count: int, shares: list[float]) -> list[int]:
    """Where to cut `count` examples; every split with a share gets one as long as there are enough for all."""
    total = sum(shares)
    counts = [round(count * share / total) for share in shares]
    needed = [1 if share > 0 else 0 for share in shares]
    if count >= sum(needed):
        counts = [max(part, least) for part, least in zip(counts, needed, strict=True)]
    counts[0] = max(0, count - sum(counts[1:]))
    return np.minimum(np.cumsum(counts)[:-1], count).tolist()


def _shuffled(examples: list[Example], seed: int, number: int) -> list[Example]:
    order = place_to_example(seed, number, np.arange(len(examples)), len(examples))
    return [examples[index] for index in order.tolist()]
