"""Curves in a far store: one curve whatever dies, and each byte sent once."""

from pathlib import Path

import pytest

from conf.schema import DataSpec, JobSpec, ModelSpec, TrainerSpec
from data_pipeline.prepare import prepare
from launcher.mirror import Mirror
from storage import gcs_retries
from storage.run_dir import RunDir
from storage.store import Store, StoreError, open_store
from tests.curves import curve
from tests.storage.conftest import gcs_server, gcs_url, proxy  # noqa: F401
from tests.storage.fault_proxy import Fault, FaultProxy
from trainer import actions, far_events
from trainer.channel import Terminal
from trainer.checkpoint_writer import CheckpointWriter
from trainer.checkpoints import list_checkpoints, load
from trainer.curves import Curves
from trainer.far_events import FarEvents
from trainer.loop import Progress
from trainer.session import Session
from trainer.topology import Topology

FOLDER = "x/tensorboard/train"
STEPS, SAVE_EVERY = 200, 20


@pytest.fixture
def store(proxy: FaultProxy, gcs_url: str) -> Store:  # noqa: F811
    return open_store(gcs_url)


def points(store: Store, folder: Path) -> list[tuple[int, float]]:
    """What TensorBoard makes of it."""
    Mirror(store.url, "x", folder).pull()
    return curve(folder / "train", "loss")


def draw(curves: Curves, first: int, last: int, sign: float = 1.0) -> None:
    """A point each step, and what a checkpoint does every few."""
    for step in range(first, last + 1):
        curves.scalars(step, {"loss": sign * step})
        if step % SAVE_EVERY == 0:
            curves.flush()
            curves.wait()


def test_each_byte_of_a_run_is_sent_once(store: Store, proxy: FaultProxy, tmp_path: Path) -> None:  # noqa: F811
    curves = Curves(FarEvents(store, FOLDER), 0)
    draw(curves, 1, STEPS)
    curves.close()
    stored = [found for found in store.list(f"{FOLDER}/")]
    assert len(stored) == STEPS // SAVE_EVERY
    sent = sum(length for path, length in proxy.sent_bytes if "upload" in path)
    envelope = 1000 * len(stored)  # of a request: names and boundaries
    assert sum(found.size for found in stored) <= sent <= sum(found.size for found in stored) + envelope
    assert points(store, tmp_path) == [(step, float(step)) for step in range(1, STEPS + 1)]


def test_what_a_dead_attempt_drew_beyond_its_checkpoint_is_forgotten(store: Store, tmp_path: Path) -> None:
    """Killed at step 57: what was sent until 40 stands, the rest is drawn again, and nothing is there twice."""
    dead = Curves(FarEvents(store, FOLDER), 0)
    draw(dead, 1, 57)
    dead.flush()
    dead.wait()  # some of it was sent, as after PIECE_S seconds; the rest, which is never sent, died with it
    dead.scalars(58, {"loss": 58.0})
    second = Curves(FarEvents(store, FOLDER), 40)
    draw(second, 41, 50, -1.0)
    second.flush()
    second.wait()
    expected = [(step, float(step if step <= 40 else -step)) for step in range(1, 51)]
    assert points(store, tmp_path / "all") == expected
    far = Mirror(store.url, "x", tmp_path / "piecemeal")
    assert far.pull() == 4 and far.pull() == 0
    third = Curves(FarEvents(store, FOLDER), 40)
    draw(third, 41, 60)
    third.close()
    assert far.pull() == 1
    assert [step for step, _ in curve(tmp_path / "piecemeal" / "train", "loss")] == list(range(1, 61))


def test_pieces_keep_their_order_when_clocks_do_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart on a host whose clock is behind, and several pieces in one second."""
    first = FarEvents(store, FOLDER)
    curves = Curves(first, 0)
    draw(curves, 1, 3 * SAVE_EVERY)
    before = [found.name for found in store.list(f"{FOLDER}/")]
    monkeypatch.setattr(far_events.time, "time", lambda: 1000.0)
    curves = Curves(FarEvents(store, FOLDER), 3 * SAVE_EVERY)
    draw(curves, 3 * SAVE_EVERY + 1, 4 * SAVE_EVERY)
    after = [found.name for found in store.list(f"{FOLDER}/")]
    assert after[:3] == before and len(after) == 4


def test_pieces_are_sent_by_size_and_by_time_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two checkpoints somebody may be watching, and memory is not for curves."""
    monkeypatch.setattr(far_events, "PIECE_BYTES", 1000)
    curves = Curves(FarEvents(store, FOLDER), 0)
    for step in range(1, 101):
        curves.scalars(step, {"loss": float(step)})
    curves.wait()
    sizes = [found.size for found in store.list(f"{FOLDER}/")]
    assert len(sizes) > 5 and max(sizes) < 1500
    monkeypatch.setattr(far_events, "PIECE_S", 0.0)
    curves.scalars(101, {"loss": 1.0})
    curves.wait()
    assert len(list(store.list(f"{FOLDER}/"))) == len(sizes) + 1


def test_a_store_that_is_away_for_a_while_loses_no_point(store: Store, proxy: FaultProxy, tmp_path: Path) -> None:  # noqa: F811
    """A checkpoint that needs the points fails; a later one brings them all, in order."""
    curves = Curves(FarEvents(store, FOLDER), 0)
    proxy.faults = [Fault("status", "POST", "upload", uses=gcs_retries.TRIES)]
    with pytest.raises(StoreError, match="cannot write"):
        draw(curves, 1, SAVE_EVERY)
    draw(curves, SAVE_EVERY + 1, 3 * SAVE_EVERY)
    curves.close()
    assert points(store, tmp_path) == [(step, float(step)) for step in range(1, 3 * SAVE_EVERY + 1)]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A real one, as small as they get, of examples that nobody has to fetch."""
    job = JobSpec(
        data=DataSpec(name="synthetic", num_examples=40, num_classes=2, image_size=8, out=str(tmp_path / "data")),
        trainer=TrainerSpec(
            model=ModelSpec(options={"filters": [2], "dense": 0, "batch_norm": True}), global_batch_size=4, steps=100
        ),
    )
    prepare(job)
    return Session(job, Topology(1, 0, 1, 1, False), Terminal(is_chief=False))


def test_no_checkpoint_is_there_before_the_curves_it_remembers(
    session: Session,
    store: Store,
    proxy: FaultProxy,  # noqa: F811
) -> None:
    """The action that saves, with a real writer and real curves: what it cannot send keeps it from saving."""
    curves, run = Curves(FarEvents(store, FOLDER), 0), RunDir(store.url, "x")
    writer = CheckpointWriter(run, attempt=1)
    for step in (10, 20):
        curves.scalars(step, {"loss": float(step)})
        proxy.faults = [Fault("status", "POST", "upload", uses=gcs_retries.TRIES)] if step == 10 else []
        progress = Progress(100, session.lengths.steps_per_epoch, step=step)
        actions.Saving(session, writer, [curves])(progress)
        if step == 10:
            with pytest.raises(StoreError, match=FOLDER):
                writer.wait()
            assert list(run.store.list("checkpoints/")) == []
    writer.close()
    assert len(list(run.store.list(f"{FOLDER.removeprefix('x/')}/"))) == 2
    assert [status.step for status in list_checkpoints(run, verify=True)] == [20]
    tensors, state = load(run, 20)
    assert state["progress"]["step"] == 20 and tensors.keys() == session.state.variables().keys()
