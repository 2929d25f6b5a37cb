"""A short storm in a bucket: whatever dies, the end is that of a calm run. `make chaos` is the long one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.goodput import goodput
from storage.run_dir import RunDir
from tests.end_to_end.conftest import Command
from tests.end_to_end.storm import HEADER, Storm, assert_same
from tests.storage.fault_proxy import FaultProxy, running_proxy
from tests.storage.gcs_server import BUCKET, running_gcs_server

environment = pytest.MonkeyPatch.context
ROOT = f"gs://{BUCKET}/runs"
STEPS = 300
JOB = (
    "cluster=2cpu",
    "cluster.max_restarts=100",
    "trainer.global_batch_size=32",
    "trainer.accumulation_steps=4",
    f"trainer.steps={STEPS}",
    "trainer.phases=[{steps: 110, learning_rate: 0.002}, {learning_rate: 0.0005}]",
    "trainer.ema_decay=0.99",
    "trainer.plateau={patience: 1, factor: 0.5, min_delta: 0.05}",
    "trainer.early_stopping.patience=50",
    "trainer.checkpoint_every_steps=20",
    "trainer.steps_per_loop=5",
    "trainer.model.dropout=0.2",
    "data.augment.pad_crop=1",
    "data.augment.brightness=0.1",
    "data.augment.mixup=0.2",
    "trainer.export_at_end=false",
)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A GCS server behind the fault proxy; every process here goes through it."""
    with running_gcs_server(tmp_path_factory.mktemp("gcs")) as url, running_proxy(url) as proxy, environment() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@pytest.mark.timeout(600)
def test_a_storm_leaves_the_same_bits_as_a_calm_run(convoy: Command, proxy: FaultProxy, tmp_path: Path) -> None:
    convoy.run("run_id=calm", *JOB)
    far, calm = RunDir(ROOT, "stormy"), RunDir(str(convoy.runs), "calm")
    # The job's own fault beside those from outside: the chief dies in the middle of a save.
    words = (
        *JOB,
        "storage=gcs",
        f"storage.root={ROOT}",
        "fault.kill_rank=0",
        "fault.during=saving",
        "fault.at_step=60",
    )
    storm = Storm(convoy, far, words, seed=4, proxy=proxy)
    strikes = storm.rage(["store", "kill 1", "freeze 1", "driver", "store"])
    told = "\n".join([HEADER, *(strike.row() for strike in strikes)])
    assert len(strikes) >= 4, told
    frozen = next(strike for strike in strikes if strike.kind == "freeze 1")
    assert frozen.blamed.startswith("hang, rank 1: stands still"), told
    own = next(event["details"] for event in storm.events() if event["kind"] == "fault")
    assert own["fault"] == "kill_rank" and own["step"] >= 60
    assert_same(calm, far, STEPS, tmp_path)
    spent = goodput(storm.events())
    assert sum(spent.parts.values()) == pytest.approx(spent.wall_s, abs=0.1) and spent.lost_steps > 0
