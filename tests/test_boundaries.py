"""The floors of the house, read from the code: who may import whom, and that no import hides inside a function."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
#: floor -> the floors of ours that it stands on
STANDS_ON = {
    "conf": set(),
    "storage": set(),
    "data_pipeline": {"conf", "storage"},
    "trainer": {"data_pipeline", "conf", "storage"},
    "launcher": {"conf", "storage"},
}
#: floor -> third parties that it never imports
NEVER = {
    "conf": {"tensorflow", "keras", "ray"},
    "storage": {"tensorflow", "keras", "ray", "hydra", "omegaconf"},
    "data_pipeline": {"keras", "ray", "hydra"},
    "trainer": {"ray", "hydra"},
    "launcher": {"tensorflow", "keras"},
}
#: Modules that run as a process of their own for the sake of one import.
EXCEPT = {"data_pipeline.download": {"keras"}}
#: Rooms of a floor that prepare data in a process without TensorFlow: neither they nor what they import may touch it.
WITHOUT_TENSORFLOW = (
    "data_pipeline.prepare",
    "data_pipeline.records",
    "data_pipeline.order",
    "data_pipeline.manifest",
    "data_pipeline.inspect",
)
#: Never, anywhere: they run what they read.
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
#: A restricted unpickler that admits arrays and builtins alone, for the CIFAR archive as it is published.
UNSAFE_ALLOWED = {"data_pipeline.cifar_archive"}


class Import(NamedTuple):
    """One import statement's target, where it stands, and whether a function hides it."""

    target: str
    line: int
    in_function: bool


def name_of(path: Path, root: Path = REPOSITORY) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, in_function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = package.rsplit(".", child.level - 1)[0] if child.level else ""
                source = ".".join(filter(None, (above, child.module)))
                yield from (Import(f"{source}.{alias.name}", child.lineno, in_function) for alias in child.names)
            else:
                hides = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, in_function or hides)

    yield from visit(tree, False)


def read_house() -> dict[str, list[Import]]:
    """module -> its imports, for every module of the five floors."""
    house = {}
    for floor in STANDS_ON:
        for path in sorted((REPOSITORY / floor).rglob("*.py")):
            module = name_of(path)
            tree = ast.parse(path.read_text(), str(path))
            house[module] = list(imports_of(tree, module, path.name == "__init__.py"))
    return house


HOUSE = read_house()
ALL_IMPORTS = [(module, found) for module, imports in HOUSE.items() for found in imports]


def top(name: str) -> str:
    return name.partition(".")[0]


def our_modules(imports: list[Import]) -> set[str]:
    """The modules of ours that the imports name: `storage.names` itself, for `from conf.errors import X` its file."""
    found = set()
    for target in (one.target for one in imports):
        while target and target not in HOUSE:
            target = target.rpartition(".")[0]
        if target:
            found.add(target)
    return found


def graph() -> dict[str, set[str]]:
    return {module: our_modules(imports) - {module} for module, imports in HOUSE.items()}


def reached_from(module: str, edges: dict[str, set[str]]) -> set[str]:
    """`module` and everything that importing it imports, the packages above each module included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += edges.get(name, set())
        above = name.rpartition(".")[0]
        if above in HOUSE:
            waiting.append(above)
    return seen


def test_every_floor_has_rooms() -> None:
    empty = [floor for floor in STANDS_ON if not any(top(module) == floor for module in HOUSE)]
    assert not empty, f"nothing to check in {empty}"


def test_floors_import_only_what_they_stand_on() -> None:
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in ALL_IMPORTS
        if top(found.target) in STANDS_ON and top(found.target) not in STANDS_ON[top(module)] | {top(module)}
    ]
    assert not wrong, "\n".join(wrong)


def test_floors_keep_third_parties_out() -> None:
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in ALL_IMPORTS
        if top(found.target) in NEVER[top(module)] - EXCEPT.get(module, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_tests_or_benchmarks() -> None:
    wrong = [f"{module}:{found.line}" for module, found in ALL_IMPORTS if top(found.target) in ("tests", "benchmarks")]
    assert not wrong, wrong


def test_imports_stand_at_the_top() -> None:
    wrong = [f"{module}:{found.line} imports {found.target}" for module, found in ALL_IMPORTS if found.in_function]
    assert not wrong, "imports inside functions (importlib by name is the only late import):\n" + "\n".join(wrong)


def test_imports_make_no_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail("modules import one another in a circle: " + " -> ".join(error.args[1]))


def test_nothing_unpickles() -> None:
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in ALL_IMPORTS
        if top(found.target) in UNSAFE and module not in UNSAFE_ALLOWED
    ]
    assert not wrong, "\n".join(wrong)


def test_preparing_never_touches_tensorflow() -> None:
    edges = graph()
    sources = [module for module in HOUSE if module.startswith("data_pipeline.sources")]
    wrong = [
        f"{room} reaches {module}:{found.line}, which imports {found.target}"
        for room in (*WITHOUT_TENSORFLOW, *sources)
        for module in sorted(reached_from(room, edges) & HOUSE.keys())
        for found in HOUSE[module]
        if top(found.target) in ("tensorflow", "keras")
    ]
    assert not wrong, "\n".join(wrong)


def test_relative_imports_and_hidden_ones_are_seen() -> None:
    tree = ast.parse("from . import b\nfrom ..c import d\ndef f():\n    import e\nif x:\n    import g\n")
    found = list(imports_of(tree, "one.two.a", is_package=False))
    assert found == [
        Import("one.two.b", 1, False),
        Import("one.c.d", 2, False),
        Import("e", 4, True),
        Import("g", 6, False),
    ]
