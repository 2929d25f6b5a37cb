"""`make chaos`: two workers in a bucket, through a long seeded storm; the end has the bits of a calm run.

CHAOS_SEED and CHAOS_STRIKES draw another storm.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.goodput import goodput, table
from storage.run_dir import RunDir
from tests.end_to_end.conftest import Command
from tests.end_to_end.storm import HEADER, PATIENCE_S, Storm, assert_same
from tests.end_to_end.test_storm import JOB, ROOT
from tests.storage.fault_proxy import FaultProxy

SEED = int(os.environ.get("CHAOS_SEED", "1"))
STRIKES = int(os.environ.get("CHAOS_STRIKES", "20"))
STEPS = 3000
#: How often each fault comes, in proportion.
KINDS = {
    "kill 0": 4,
    "kill 1": 4,
    "freeze 0": 1,
    "freeze 1": 1,
    "agent": 3,
    "standby": 2,
    "driver": 2,
    "stop": 2,
    "head": 1,
    "raylet": 1,
    "store": 6,
}


def drawn(draw: random.Random) -> list[str]:
    """Each fault once, and the rest as often as it comes, in any order."""
    kinds = [*KINDS, *draw.choices(list(KINDS), list(KINDS.values()), k=max(STRIKES - len(KINDS), 0))]
    return draw.sample(kinds, STRIKES)


@pytest.mark.timeout(1500)
def test_the_soak(convoy: Command, proxy: FaultProxy, tmp_path: Path, show: Callable[..., None]) -> None:
    # Patience for longer than the job lasts: stopped early it would end before the storm does.
    longer = (f"trainer.steps={STEPS}", "trainer.early_stopping.patience=100", "trainer.checkpoint_every_steps=40")
    words = (*JOB, *longer, "trainer.keep_best=1")
    kinds = drawn(random.Random(SEED))
    convoy.run("job=prepare", "run_id=prepare")
    undisturbed = convoy.start("run_id=calm", *words)
    far = RunDir(ROOT, "soak")
    storm = Storm(convoy, far, (*words, "storage=gcs", f"storage.root={ROOT}"), SEED, proxy)
    try:
        strikes = storm.rage(kinds)
    finally:
        show("", f"seed {SEED}, drawn: {', '.join(kinds)}", HEADER, *(strike.row() for strike in storm.strikes))
    show(*table(goodput(storm.events())))
    assert len(strikes) >= STRIKES * 3 // 4
    said, _ = undisturbed.communicate(timeout=PATIENCE_S)
    assert undisturbed.returncode == 0, said[-3000:]
    assert_same(RunDir(str(convoy.runs), "calm"), far, STEPS, tmp_path)
