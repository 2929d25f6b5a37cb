"""`make chaos`: law 4. Killed at ten random moments, a training ends with the bits of one that was not.

Weights, optimizer and all other state, every point of every curve, the report. And on two, one and two workers again:
the same examples in the same batches, so the same weights but for the rounding of sums.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.run_dir import RunDir
from tests.end_to_end.conftest import Command
from tests.end_to_end.storm import HEADER, Storm, assert_same, weights

STEPS = 1200
KILLS = 10
#: Everything that remembers something from one step to the next.
JOB = (
    "cluster.max_restarts=100",
    "trainer.global_batch_size=32",
    f"trainer.steps={STEPS}",
    "trainer.checkpoint_every_steps=30",
    "trainer.steps_per_loop=5",
    "trainer.model.dropout=0.2",
    "trainer.model.options.batch_norm=true",
    "data.augment.pad_crop=1",
    "data.augment.rotation=10",
    "data.augment.contrast=0.2",
    "data.augment.erasing=0.2",
    "data.augment.mixup=0.2",
    "trainer.plateau={patience: 1, factor: 0.5, min_delta: 0.05}",
    "trainer.early_stopping.patience=12",
    "trainer.export_at_end=false",
)
PHASES = "trainer.phases=[{steps: 500, schedule: {name: cosine, warmup_steps: 50}}, {learning_rate: 0.0005}]"
EMA = "trainer.ema_decay=0.99"
CASES = {
    "one-worker-sgd": ("cluster=1cpu", "trainer.optimizer.name=sgd", "trainer.accumulation_steps=1", PHASES, EMA),
    "one-worker-adam": ("cluster=1cpu", "trainer.optimizer.name=adam", "trainer.accumulation_steps=4"),
    "two-workers-adam": ("cluster=2cpu", "trainer.optimizer.name=adam", "trainer.accumulation_steps=1", PHASES),
    "two-workers-sgd": ("cluster=2cpu", "trainer.optimizer.name=sgd", "trainer.accumulation_steps=4", EMA),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_ten_deaths_leave_the_same_bits(convoy: Command, tmp_path: Path, show: Callable[..., None], name: str) -> None:
    words = (*JOB, *CASES[name])
    convoy.run(f"run_id=calm-{name}", *words)
    killed, calm = (RunDir(str(convoy.runs), f"{kind}-{name}") for kind in ("killed", "calm"))
    workers = 1 + ("cluster=2cpu" in words)
    storm = Storm(convoy, killed, words, seed=len(name))
    strikes = storm.rage([f"kill {number % workers}" for number in range(KILLS)])
    show("", name, HEADER, *(strike.row() for strike in strikes))
    steps = [convoy.json(run.run_id, "outcome.json")["step"] for run in (calm, killed)]
    assert steps[0] == steps[1]  # where it stopped early too
    assert len(strikes) == KILLS or (len(strikes) >= 5 and steps[0] < STEPS)
    assert_same(calm, killed, steps[0], tmp_path)


@pytest.mark.timeout(400)
def test_two_one_and_two_workers_again(convoy: Command) -> None:
    """Without dropout and BatchNorm, whose masks and statistics belong to a replica."""
    plain = ("trainer.model.options.batch_norm=false", "trainer.model.dropout=0", "trainer.optimizer.name=sgd", EMA)
    words = (*JOB, *plain, "trainer.steps=240", "trainer.phases=[{steps: 100}, {learning_rate: 0.002}]")
    convoy.run("run_id=always-two", *words, "cluster=2cpu")
    changing = RunDir(str(convoy.runs), "changing")
    storm = Storm(convoy, changing, (*words, "cluster=2cpu"), seed=1)
    storm.words = ("cluster=1cpu",)
    assert storm.strike_next("stop")
    storm.words = ("cluster=2cpu",)
    assert storm.strike_next("stop")
    storm.end()
    hosts = [len(event["details"]["hosts"]) for event in storm.events() if event["kind"] == "attempt_started"]
    assert hosts == [2, 1, 2]
    left, right = (weights(RunDir(str(convoy.runs), run_id), 240) for run_id in ("changing", "always-two"))
    assert left.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_allclose(left[name], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1), err_msg=name)
