"""What every benchmark does alike: name the machine, interleave the sides, print medians and ratios."""

import compileall
import json
import os
import platform
import statistics
import sysconfig
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
Figures = dict[str, float]


class Goal(NamedTuple):
    """A ratio between two sides of one benchmark, and what it should be; None where it is only to be known."""

    ours: str
    theirs: str
    figure: str
    bound: float | None
    at_most: bool = False

    def line(self, results: Mapping[str, list[Figures]]) -> str:
        """The median of the rounds' ratios against the bound, in one line."""
        label = f"{self.ours} / {self.theirs}, {self.figure}"
        if not results.get(self.ours) or not results.get(self.theirs):
            return f"{label}: not measured"
        pairs = zip(results[self.ours], results[self.theirs], strict=False)
        ratio = statistics.median(ours[self.figure] / theirs[self.figure] for ours, theirs in pairs)
        if self.bound is None:
            return f"{label}: {ratio:.2f}"
        reached = ratio <= self.bound if self.at_most else ratio >= self.bound
        law = f"at {'most' if self.at_most else 'least'} {self.bound:g}"
        return f"{label}: {ratio:.2f} ({law}: {'reached' if reached else 'MISSED'})"


def machine() -> str:
    """The machine and the versions that the numbers come from."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    software = [
        f"Python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in ("tensorflow", "keras", "ray")),
    ]
    hardware = f"{model}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, {platform.system()}"
    return f"{hardware}; {', '.join(software)}; load average {os.getloadavg()[0]:.1f}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def compile_bytecode() -> None:
    """Compile what is not compiled, so that no side pays: without, TensorFlow's import costs three times as much."""
    for place in (sysconfig.get_path("purelib"), *(str(REPOSITORY / name) for name in os.listdir(REPOSITORY))):
        if Path(place).is_dir() and not Path(place).name.startswith("."):
            compileall.compile_dir(place, quiet=2, workers=0)


def interleave(sides: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    """Every side once a round, every second round in the other direction, so that nobody always comes after the same.

    A side that fails is named and left out from then on.
    """
    results: dict[str, list[Figures]] = {name: [] for name in sides}
    failed = set()
    for number in range(1, rounds + 1):
        for name, measure in list(sides.items())[:: 1 if number % 2 else -1]:
            if name in failed:
                continue
            try:
                figures = measure()
            except (RuntimeError, OSError) as error:
                failed.add(name)
                print(f"  {name}: failed: {error}", flush=True)
                continue
            results[name].append(figures)
            print(
                f"  round {number} {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()),
                flush=True,
            )
    return results


def show(title: str, results: Mapping[str, list[Figures]], goals: list[Goal]) -> None:
    """Medians with their range, then the ratios."""
    print(f"\n{title}\n{machine()}")
    width = max(map(len, results))
    for name, rounds in results.items():
        cells = []
        for figure in rounds[0] if rounds else ():
            values = [each[figure] for each in rounds]
            cells.append(f"{figure} {statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
        print(f"  {name:<{width}}  {'; '.join(cells) or 'not measured'}")
    for goal in goals:
        print(f"  {goal.line(results)}")


def save(path: Path | None, results: Mapping[str, list[Figures]]) -> None:
    """Every round's figures and the machine, as JSON; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
