"""Examples a second of the whole training loop, against loops without Convoy over the same network and batch.

    python benchmarks/step.py [--rounds 3] [--networks cnn,mobilenetv2] [--shapes one,mirrored,workers] [--json FILE]

Convoy's worker (`python -m trainer.worker`) trains on prepared synthetic pictures, with all it does in a run: reading,
order, metrics, progress. The peers (peers/loop.py) hold their pictures in memory. All are seen from outside in the same
way, by their progress lines. The sides take turns of a few seconds, the others held still meanwhile, and the ratios are
medians of those within a round: machines change from minute to minute. `per_cpu` counts examples a CPU-second of the
processes. Of two workers each has one half of the cores, on both sides.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.report import REPOSITORY, Figures, Goal, compile_bytecode, interleave, save, show
from benchmarks.watch import Mark, Side
from conf.files import dump_job
from conf.schema import (
    Accelerator,
    ClusterSpec,
    DataSpec,
    JobSpec,
    ModelSpec,
    SplitSpec,
    StorageSpec,
    TrainerSpec,
)

TIMEOUT_S = 600
FOR_EVER = 10**9
#: `fit` tells of every fourth loop, so a turn is four.
LOOPS_A_TURN = 4


@dataclass(frozen=True)
class Case:
    """What is trained."""

    network: str
    batch_size: int
    steps_per_loop: int
    model: ModelSpec
    image_size: int


@dataclass(frozen=True)
class Shape:
    """On how many processes and replicas."""

    workers: int
    replicas: int


CONVNET = ModelSpec(name="convnet", options={"filters": [32, 64, 64], "dense": 64, "padding": "valid"})
CASES = {
    "cnn": Case("cnn", 32, 32, CONVNET, 32),  # the batch that `fit` takes where nobody says
    "cnn64": Case("cnn", 64, 32, CONVNET, 32),
    # Short turns: two workers that are held still for ten seconds lose one another.
    "mobilenetv2": Case("mobilenetv2", 32, 2, ModelSpec(name="mobilenetv2", min_image_size=32), 96),
}
SHAPES = {"one": Shape(1, 1), "mirrored": Shape(1, 2), "workers": Shape(2, 1)}
#: At least this share of `model.fit`'s examples a second.
AGAINST_FIT = {"cnn": 1.25, "cnn64": 1.25, "mobilenetv2": 1.0}
AGAINST_BARE = 0.97


def figures(first: Mark, last: Mark, case: Case) -> Figures:
    """Examples a second, and a CPU-second, between two marks."""
    examples = (last.step - first.step) * case.batch_size
    return {"examples_per_s": examples / (last.time_s - first.time_s), "per_cpu": examples / (last.cpu_s - first.cpu_s)}


def peer(kind: str, case: Case, shape: Shape) -> Side:
    """One of the loops without Convoy."""
    numbers = (case.batch_size, FOR_EVER, case.steps_per_loop, shape.replicas)
    return Side(["benchmarks/peers/loop.py", kind, case.network, *map(str, numbers)], shape.workers)


def job_spec(case: Case, shape: Shape, root: Path) -> JobSpec:
    """The job that Convoy's worker runs: nothing but training between its start and its end."""
    return JobSpec(
        run_id=f"step-{time.time_ns()}",
        data=DataSpec(
            name="synthetic",
            image_size=case.image_size,
            out=str(root / f"data-{case.image_size}"),
            split=SplitSpec(1.0, 0.0, 0.0),
        ),
        trainer=TrainerSpec(
            name=case.network,
            model=case.model,
            steps=FOR_EVER,
            global_batch_size=case.batch_size,
            steps_per_loop=case.steps_per_loop,
            log_every_steps=case.steps_per_loop,
            checkpoint_every_steps=10**9,
            eval_every_steps=10**9,
            evaluate_at_end=False,
            export_at_end=False,
        ),
        cluster=ClusterSpec(workers=shape.workers, gpus_per_worker=shape.replicas, accelerator=Accelerator.cpu),
        storage=StorageSpec(root=str(root / "runs")),
    )


def write_job(job: JobSpec) -> Path:
    """The job's file, in a run directory of its own."""
    path = Path(job.storage.root) / str(job.run_id) / "job.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(dump_job(job))
    return path


def convoy(case: Case, shape: Shape, root: Path) -> Side:
    """Convoy's worker, whole."""
    path = write_job(job_spec(case, shape, root))
    return Side(["-m", "trainer.worker", "--job", str(path)], shape.workers)


def prepare(case: Case, root: Path) -> None:
    """The pictures as TFRecords, once."""
    path = write_job(job_spec(case, SHAPES["one"], root))
    command = [sys.executable, "-m", "data_pipeline.prepare", "--job", str(path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)


def sides_of(case: Case, shape: Shape, root: Path) -> dict[str, Side]:
    """Who takes turns, each compiled and warm. `fit` of Keras 3 fails on several workers."""
    starts: dict[str, Callable[[], Side]] = {
        "convoy": partial(convoy, case, shape, root),
        "bare loop": partial(peer, "bare", case, shape),
    }
    if shape.workers == 1:
        starts["model.fit"] = partial(peer, "fit", case, shape)
    sides = {name: start() for name, start in starts.items()}
    for side in sides.values():
        side.warm_up(LOOPS_A_TURN * case.steps_per_loop)
    for side in sides.values():
        side.hold()
    return sides


def take_turn(side: Side, steps: int, case: Case) -> Figures:
    """What a side does in one turn."""
    return figures(*side.turn(steps), case)


def take_turns(case: Case, shape: Shape, root: Path, rounds: int) -> dict[str, list[Figures]]:
    """Every side a few seconds at a time while the others are held still, `rounds` times."""
    sides = sides_of(case, shape, root)
    try:
        steps = LOOPS_A_TURN * case.steps_per_loop
        turns: dict[str, Callable[[], Figures]] = {
            name: partial(take_turn, side, steps, case) for name, side in sides.items()
        }
        return interleave(turns, rounds)
    finally:
        for side in sides.values():
            side.end()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default=",".join(CASES))
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--json", type=Path, help="keep every round's figures here")
    asked = parser.parse_args()
    compile_bytecode()
    everything: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="convoy-step-") as folder:
        for network in asked.networks.split(","):
            case = CASES[network]
            prepare(case, Path(folder))
            for name in asked.shapes.split(","):
                title = f"{network}, batch {case.batch_size}, {name}"
                print(title, flush=True)
                results = take_turns(case, SHAPES[name], Path(folder), asked.rounds)
                goals = [Goal("convoy", "bare loop", figure, AGAINST_BARE) for figure in ("examples_per_s", "per_cpu")]
                if "model.fit" in results:
                    goals.append(Goal("convoy", "model.fit", "examples_per_s", AGAINST_FIT[network]))
                show(title, results, goals)
                everything |= {f"{title}: {side}": rounds for side, rounds in results.items()}
    save(asked.json, everything)


if __name__ == "__main__":
    main()
