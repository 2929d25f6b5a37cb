"""`make law4`: law 4. Killed at ten random moments, a training ends with the bits of one that was not.

Weights, optimizer and all other state, every point of every curve, the report, the step at which it stopped early. On
two, one and two workers again: `elastic.py`.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.run_dir import RunDir
from tests.end_to_end.conftest import Command
from tests.end_to_end.storm import HEADER, PATIENCE_S, Storm, assert_same

#: More than any case takes: all end early.
STEPS = 1200
KILLS = 10
Way = tuple[str, str, int, str]
#: Everything that remembers something from one step to the next.
JOB = (
    "cluster.max_restarts=100",
    "trainer.global_batch_size=32",
    f"trainer.steps={STEPS}",
    "trainer.checkpoint_every_steps=15",
    "trainer.eval_every_steps=30",
    "trainer.steps_per_loop=5",
    "trainer.model.dropout=0.2",
    "trainer.model.options.batch_norm=true",
    "data.augment.pad_crop=1",
    "data.augment.rotation=10",
    "data.augment.contrast=0.2",
    "data.augment.erasing=0.2",
    "data.augment.mixup=0.2",
    "trainer.plateau={patience: 1, factor: 0.5, min_delta: 0.05}",
    # The last phase is not better by so much any more, and ends after some evaluations.
    "trainer.early_stopping={patience: 4, min_delta: 0.02}",
    "trainer.phases=[{steps: 500, schedule: {name: cosine, warmup_steps: 50}}, {learning_rate: 0.0005}]",
    "trainer.export_at_end=false",
)
#: Every way of training: cluster, optimizer, micro-batches an update, decay of the averages.
WAYS = tuple(itertools.product(("1cpu", "2cpu"), ("sgd", "adam"), (1, 4), ("null", "0.99")))


@pytest.fixture(scope="module")
def prepared(convoy: Command) -> None:
    """The set that all read, and two prepare at once nowhere here."""
    convoy.run("job=prepare", "run_id=prepare")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
@pytest.mark.usefixtures("prepared")
def test_ten_deaths_leave_the_same_bits(convoy: Command, tmp_path: Path, show: Callable[..., None], way: Way) -> None:
    cluster, optimizer, passes, decay = way
    name = "-".join(map(str, way)).replace(".", "_")
    words = (*JOB, f"cluster={cluster}", f"trainer.optimizer.name={optimizer}")
    words += (f"trainer.accumulation_steps={passes}", f"trainer.ema_decay={decay}")
    undisturbed = convoy.start(f"run_id=calm-{name}", *words)
    killed, calm = (RunDir(str(convoy.runs), f"{kind}-{name}") for kind in ("killed", "calm"))
    storm = Storm(convoy, killed, words, seed=WAYS.index(way), within_s=0.15)
    strikes = storm.rage([f"kill {number % int(cluster[0])}" for number in range(KILLS)])
    show("", name, HEADER, *(strike.row() for strike in strikes))
    said, _ = undisturbed.communicate(timeout=PATIENCE_S)
    assert undisturbed.returncode == 0, said[-3000:]
    steps = [convoy.json(run.run_id, "outcome.json")["step"] for run in (calm, killed)]
    reasons = [convoy.json(run.run_id, "outcome.json")["reason"] for run in (calm, killed)]
    assert steps[0] == steps[1] < STEPS and reasons[0] == reasons[1] and "stopped early at step" in reasons[0]
    assert any(event["kind"] == "plateau" for event in storm.events()), "the rate was lowered on the way"
    assert len(strikes) == KILLS
    assert_same(calm, killed, steps[0], tmp_path)
