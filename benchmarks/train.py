"""What features of a training cost, what more processes bring and send to each other, precision, XLA, memory.

    python -m benchmarks.train [features|scaling|bytes|precision|compile|memory ...] [--rounds 5]
        [--sides bare,all] [--networks cnn]

Every side is a whole worker of Convoy (`python -m trainer.worker`) on prepared synthetic pictures, seen from outside by
its progress lines; the sides take turns of a few seconds while the others are held still, and ratios are medians of
those within a round. Without a part's name all are measured, one after the other. Bytes are those of the workers' own
connections, as `ss` of iproute2 tells them.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import Figures, Goal, compile_bytecode, interleave, save, show
from benchmarks.step import CASES, LOOPS_A_TURN, SHAPES, Case, Shape, job_spec, prepare, write_job
from benchmarks.watch import Mark, Side
from conf.schema import Compile, JobSpec, Precision, Rematerialize

#: What the features of the first part may cost together.
FEATURES_COST = 0.97
MICRO_BATCHES = 8


@dataclass(frozen=True)
class Row:
    """One side: what it is called, on how many processes and replicas, and what its recipe has beside the bare one."""

    name: str
    shape: Shape = SHAPES["one"]
    optimizer: Mapping[str, Any] | None = None
    trainer: Mapping[str, Any] | None = None
    #: Global batches of the network's own size in one step.
    batches: int = 1
    #: Whether a point is drawn after each call of the compiled loop.
    draws: bool = False

    def job(self, case: Case, root: Path) -> JobSpec:
        """Its job."""
        case = replace(case, batch_size=case.batch_size * self.batches)
        job = job_spec(case, self.shape, root)
        job.trainer.log_every_steps = case.steps_per_loop if self.draws else 10**9
        job.trainer.optimizer = replace(job.trainer.optimizer, **self.optimizer or {})
        job.trainer = replace(job.trainer, **self.trainer or {})
        return job


EMA, WEIGHTS, CLIPPING = {"ema_decay": 0.999}, {"class_weights": "balanced"}, {"clip_norm": 1.0}
FEATURES = (
    Row("bare"),
    Row("ema", trainer=EMA),
    Row("class weights", trainer=WEIGHTS),
    Row("clipping", optimizer=CLIPPING),
    Row("metrics", draws=True),
    Row("all", trainer=EMA | WEIGHTS, optimizer=CLIPPING, draws=True),
)
SCALING = (Row("one process"), Row("mirrored x 2", SHAPES["mirrored"]), Row("workers x 2", SHAPES["workers"]))
PRECISION = tuple(Row(kind.name, trainer={"precision": kind}) for kind in Precision)
MEMORY = tuple(Row(kind.name, trainer={"rematerialize": kind}) for kind in Rematerialize)
COMPILE = tuple(Row(kind.name, trainer={"compile": kind}) for kind in Compile)
ACCUMULATED = {"accumulation_steps": MICRO_BATCHES}
BYTES = (
    Row("K = 1", SHAPES["workers"]),
    Row(f"K = {MICRO_BATCHES}", SHAPES["workers"], trainer=ACCUMULATED, batches=MICRO_BATCHES),
)


def sent_bytes(processes: set[int]) -> float:
    """What these processes have sent over TCP: the kernel's own count of each of their connections."""
    told = subprocess.run(["ss", "-tinHOp"], capture_output=True, text=True, check=True).stdout
    own = [line for line in told.splitlines() if any(f",pid={process}," in line for process in processes)]
    return float(sum(int(count) for line in own for count in re.findall(r"bytes_sent:(\d+)", line)))


def speed(row: Row, case: Case, first: Mark, last: Mark) -> Figures:
    """Examples a second, and a CPU-second."""
    examples = (last.step - first.step) * case.batch_size * row.batches
    return {"examples_per_s": examples / (last.time_s - first.time_s), "per_cpu": examples / (last.cpu_s - first.cpu_s)}


def traffic(row: Row, case: Case, first: Mark, last: Mark) -> Figures:
    """Megabytes that all workers together sent in a step, and for each micro-batch of a replica in it."""
    megabytes = (last.gauge - first.gauge) / (last.step - first.step) / 1e6
    return {"mb_a_step": megabytes, "mb_a_micro_batch": megabytes / row.batches} | speed(row, case, first, last)


Figure = Callable[[Row, Case, Mark, Mark], Figures]


@dataclass(frozen=True)
class Part:
    """One table: its sides, what is measured of each, what should come out."""

    title: str
    rows: Sequence[Row]
    goals: Sequence[Goal]
    figures: Figure = speed
    gauge: Callable[[set[int]], float] | None = None
    looks_at_memory: bool = False
    one_by_one: bool = False
    #: Compiled loops of one turn.
    loops: int = LOOPS_A_TURN


PARTS = {
    "features": Part(
        "what features cost", FEATURES, [Goal(row.name, "bare", "per_cpu", FEATURES_COST) for row in FEATURES[1:]]
    ),
    "scaling": Part(
        "two replicas against one process with all cores",
        SCALING,
        [Goal(row.name, "one process", "examples_per_s", 0.9) for row in SCALING[1:]],
        loops=2,  # two workers that are held still for ten seconds lose one another
    ),
    "bytes": Part(
        "what two workers send to each other",
        BYTES,
        [Goal(BYTES[1].name, BYTES[0].name, "mb_a_micro_batch", 1.05 / MICRO_BATCHES, at_most=True)],
        traffic,
        sent_bytes,
        one_by_one=True,
    ),
    "precision": Part("precisions", PRECISION, [Goal("mixed_bfloat16", "float32", "examples_per_s", None)]),
    "memory": Part(
        "peak memory with and without rematerialisation",
        MEMORY,
        [Goal("blocks", "none", "peak_mb", 1.0, at_most=True)],
        looks_at_memory=True,
        one_by_one=True,
    ),
    "compile": Part("XLA", COMPILE, [Goal("xla", "none", "examples_per_s", 1.0)]),
}


def only(part: Part, sides: Sequence[str] | None) -> Part:
    """The part with these sides alone, where they are named: more rounds in the same time, for a small difference."""
    if sides is None:
        return part
    rows = [row for row in part.rows if row.name in sides]
    goals = [goal for goal in part.goals if {goal.ours, goal.theirs} <= set(sides)]
    return replace(part, rows=rows, goals=goals)


def started(part: Part, row: Row, case: Case, root: Path) -> Side:
    """A side on its way."""
    path = write_job(row.job(case, root))
    return Side(["-m", "trainer.worker", "--job", str(path)], row.shape.workers, part.gauge)


def take_turns(part: Part, case: Case, root: Path, rounds: int) -> dict[str, list[Figures]]:
    """Every side a few seconds at a time while the others are held still, `rounds` times."""
    steps = part.loops * case.steps_per_loop
    sides: dict[str, Side] = {}
    try:
        for row in part.rows:
            sides[row.name] = started(part, row, case, root)
        # Held only when all are warm: two workers that are held still for long lose one another.
        for side in sides.values():
            side.warm_up(steps)
        for side in sides.values():
            side.hold()
        turns = {row.name: partial(take_turn, part, row, case, sides[row.name], steps) for row in part.rows}
        return interleave(turns, rounds)
    finally:
        for side in sides.values():
            side.end()


def take_turns_alone(part: Part, case: Case, root: Path, rounds: int) -> dict[str, list[Figures]]:
    """All turns of a side before the next one begins: for what does not depend on the machine's minute."""
    steps = part.loops * case.steps_per_loop
    results: dict[str, list[Figures]] = {}
    for row in part.rows:
        side = started(part, row, case, root)
        try:
            side.warm_up(steps)
            turn = partial(take_turn, part, row, case, side, steps)
            results |= interleave({row.name: turn}, rounds)
        finally:
            side.end()
    return results


def take_turn(part: Part, row: Row, case: Case, side: Side, steps: int) -> Figures:
    """What a side does in one turn."""
    found = part.figures(row, case, *side.turn(steps))
    return {"peak_mb": side.peak_bytes() / 1e6} | found if part.looks_at_memory else found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", help="of one part, by their names and commas; default: all")
    parser.add_argument("--networks", default="mobilenetv2", help=f"of {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, help="keep every round's figures here")
    asked = parser.parse_args()
    if unknown := [name for name in asked.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    sides = asked.sides.split(",") if asked.sides else None
    parts = {name: only(PARTS[name], sides) for name in asked.parts or PARTS}
    for name, part in parts.items():
        if sides and len(part.rows) < len(set(sides)):
            known = ", ".join(row.name for row in PARTS[name].rows)
            parser.error(f"--sides={asked.sides} are not all sides of {name}: {known}")
    compile_bytecode()
    everything: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="convoy-train-") as folder:
        for network in asked.networks.split(","):
            prepare(CASES[network], Path(folder))
            for name, part in parts.items():
                title = f"{name}: {part.title}, {network}, batch {CASES[network].batch_size}"
                print(title, flush=True)
                measure = take_turns_alone if part.one_by_one else take_turns
                results = measure(part, CASES[network], Path(folder), asked.rounds)
                show(title, results, list(part.goals))
                everything |= {f"{title}: {side}": rounds for side, rounds in results.items()}
    save(asked.json, everything)


if __name__ == "__main__":
    main()
