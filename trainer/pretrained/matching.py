"""Which stored array belongs to which variable of a model: by the names of layers, whatever lies around them.

Layers are compared by their path of names (a layer in a model in a model), and one path fits another that ends with it.
Names that Keras made up (conv2d_17) depend on what else was built in that process, so they are compared by their rank.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

Path = tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """An array that is read when it is wanted."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


#: The arrays of each layer, by their number in the layer's order, or by the names of variables. Some layers have none.
Layers = Mapping[Path, Mapping[str, Stored]]


@dataclass
class Report:
    """What became of each weight: names of the model's variables, and, of what was skipped, the file's."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the file has none for it: it keeps its first, random value
    mismatched: list[str] = field(default_factory=list)  # the file's has another shape
    skipped: list[str] = field(default_factory=list)  # the model has no such layer

    def summary(self) -> str:
        """The counts, in words."""
        counts = (
            f"{len(self.loaded)} loaded",
            f"{len(self.missing)} not in the file",
            f"{len(self.mismatched)} of another shape",
            f"{len(self.skipped)} of the file not in the model",
        )
        return ", ".join(counts)

    def lines(self) -> Iterator[str]:
        """Every name, a line each kind."""
        kinds = {
            "loaded": self.loaded,
            "not in the file": self.missing,
            "of another shape": self.mismatched,
            "not in the model": self.skipped,
        }
        for kind, names in kinds.items():
            if names:
                yield f"weights {kind} ({len(names)}): {', '.join(names)}"


def place(model: keras.Model, layers: Layers) -> Report:
    """Put the stored arrays into the variables of `model` they belong to."""
    own = own_variables(model)
    classes = {_snake(type(layer).__name__) for layer, _ in _walk(model, ())}
    targets = _by_ending({_ranked(path, _ranks(own, classes)): path for path in own})
    ranks = _ranks(layers, classes)
    report, found = Report(), set()
    for path, arrays in layers.items():
        target = _target(_ranked(path, ranks), targets)
        if target is None or target in found:
            report.skipped += ["/".join((*path, key)) for key in arrays]
            continue
        found.add(target)
        _fill(own[target], arrays, report)
    for path in own:
        if path not in found:
            report.missing += [variable.path for variable in own[path]]
    return report


def own_variables(model: keras.Model) -> dict[Path, list[keras.Variable]]:
    """The variables of each layer that has some of its own, in its own order; seeds are none."""
    found = {}
    for layer, path in _walk(model, ()):
        below = {id(variable) for child in _children(layer) for variable in child.weights}
        own = [variable for variable in layer.weights if id(variable) not in below]
        if own:
            found[path] = own
    return found


def layers_of_model(model: keras.Model) -> Layers:
    """The weights of a live model, as if they had been stored."""

    def stored(variable: keras.Variable) -> Stored:
        return Stored(tuple(variable.shape), lambda: keras.ops.convert_to_numpy(variable))

    own = own_variables(model)
    return {path: {str(n): stored(v) for n, v in enumerate(own.get(path, []))} for _, path in _walk(model, ())}


def _fill(variables: list[keras.Variable], arrays: Mapping[str, Stored], report: Report) -> None:
    by_number = all(key.isdigit() for key in arrays)
    if by_number and arrays and len(arrays) != len(variables):
        # Which of them is left out, nobody can tell.
        report.mismatched += [f"{v.path} (one of {len(variables)}, the file has {len(arrays)})" for v in variables]
        return
    for number, variable in enumerate(variables):
        stored = arrays.get(str(number) if by_number else variable.name)
        if stored is None:
            report.missing.append(variable.path)
        elif stored.shape != tuple(variable.shape):
            report.mismatched.append(f"{variable.path} ({tuple(variable.shape)}, the file has {stored.shape})")
        else:
            variable.value.assign(tf.convert_to_tensor(stored.read(), variable.value.dtype))
            report.loaded.append(variable.path)


def _target(path: Path, targets: Mapping[Path, Path]) -> Path | None:
    return next((targets[path[start:]] for start in range(len(path)) if path[start:] in targets), None)


def _by_ending(paths: Mapping[Path, Path]) -> dict[Path, Path]:
    """Every ending that only one path has, and every whole path."""
    found: dict[Path, Path | None] = {}
    for ranked, path in paths.items():
        for start in range(1, len(ranked)):
            found[ranked[start:]] = None if ranked[start:] in found else path
    return {ending: path for ending, path in found.items() if path is not None} | dict(paths)


def _walk(layer: keras.Layer, path: Path) -> Iterator[tuple[keras.Layer, Path]]:
    for child in _children(layer):
        inside = (*path, child.name)
        yield child, inside
        yield from _walk(child, inside)


def _children(layer: keras.Layer) -> list[keras.Layer]:
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _ranks(paths: Iterable[Path], classes: set[str]) -> dict[str, str]:
    """Made-up names -> class and rank among the names of that class."""
    numbers: dict[str, dict[str, int]] = {}
    for name in {name for path in paths for name in path}:
        kind, _, number = name.rpartition("_")
        if name in classes:
            numbers.setdefault(name, {})[name] = -1
        elif kind in classes and number.isdigit():
            numbers.setdefault(kind, {})[name] = int(number)
    return {
        name: f"{kind}#{rank}"
        for kind, names in numbers.items()
        for rank, name in enumerate(sorted(names, key=lambda name: names[name]))
    }


def _ranked(path: Path, ranks: Mapping[str, str]) -> Path:
    return tuple(ranks.get(name, name) for name in path)


def _snake(name: str) -> str:
    """A class's name as Keras writes it in the names it makes up: Conv2D -> conv2d, InputLayer -> input_layer."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
