"""What TensorBoard shows beside the curves: against NumPy on the checkpointed weights, and the same after a resume."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from conf.data_url import data_url
from conf.errors import BadSpec
from conf.files import dump_job
from conf.schema import (
    AugmentSpec,
    GroupSpec,
    JobSpec,
    LooksSpec,
    ModelSpec,
    OptimizerSpec,
    StorageSpec,
    StoreKind,
    TrainerSpec,
)
from data_pipeline.manifest import load_manifest
from data_pipeline.order import BatchShape
from data_pipeline.pipeline import training_dataset
from data_pipeline.prepare import prepare
from launcher.mirror import Mirror
from storage.run_dir import RunDir
from storage.store import open_store
from tests.storage.gcs_server import BUCKET, running_gcs_server
from tests.trainer import gang
from tests.trainer.test_worker_runs import ROOT, job
from trainer.checkpoints import load
from trainer.ledger import Ledger
from trainer.profile import STEP
from trainer.session import Lengths
from trainer.training import profile_of

SEVERAL = "import sys; from trainer.worker import main; sys.exit(max([main(['--job', url]) for url in sys.argv[1:]]))"
pytestmark = pytest.mark.timeout(600)
FAR = f"gs://{BUCKET}/runs"
RATE, BATCH, STEPS = 0.1, 64, 12
#: Of the head, where it has an optimizer of its own.
HEAD_RATE = 0.02
LOOKS = LooksSpec(norms=1, histograms=2, images=2, num_images=5, times=True, memory=True, hparams=["trainer.optimizer"])


def looked_at(root: Path, run_id: str, steps: int = STEPS, looks: LooksSpec = LOOKS) -> JobSpec:
    """Points at the steps 2, 4, ..., and a checkpoint of every step."""
    settings = {"log_every_steps": 2, "checkpoint_every_steps": 1, "keep_checkpoints": 99, "steps_per_loop": 3}
    asked = job(root, run_id, steps=steps, evaluate_at_end=False, **settings)
    asked.trainer.optimizer = OptimizerSpec("sgd", RATE, momentum=0.0, clip_norm=0.05)
    asked.trainer.accumulation_steps, asked.trainer.tensorboard = 2, looks
    asked.trainer.model = ModelSpec(dropout=0.25, options={"batch_norm": True})
    asked.data.augment = AugmentSpec(pad_crop=1)
    asked.trainer.profile = [6, 8] if run_id in ("whole", "far") and steps > 6 else None
    return asked


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Iterator[None]:
    """A GCS server that this process and its children find."""
    with running_gcs_server(tmp_path_factory.mktemp("gcs")) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the data is prepared."""
    made = tmp_path_factory.mktemp("looks")
    prepare(job(made, "prepare"))
    return made


@pytest.fixture(scope="module")
def root(folder, bucket) -> Path:
    """The same run whole, in two attempts, without anything to look at, and in a bucket: one after the other.

    In one process on one core, where nothing of TensorFlow is set up differently for each.
    """
    attempts = [("whole", STEPS, LOOKS), ("in-two", 4, LOOKS), ("in-two", STEPS, LOOKS), ("plain", STEPS, LooksSpec())]
    attempts += [("far", 4, LOOKS), ("far", STEPS, LOOKS)]
    urls = []
    for number, (run_id, steps, looks) in enumerate(attempts):
        asked = looked_at(folder, run_id, steps, looks)
        if run_id == "far":
            asked.storage = StorageSpec(StoreKind.gcs, FAR)
        urls.append(f"{asked.storage.root}/{run_id}/attempts/{number:02d}/job.yaml")
        place, _, name = urls[-1].rpartition("/")
        open_store(place).put(name, dump_job(asked).encode())
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, *urls],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def whole(root) -> EventAccumulator:
    return events(root, "whole")


def events(root: Path, run_id: str, curve: str = "train") -> EventAccumulator:
    found = EventAccumulator(str(root / "runs" / run_id / "tensorboard" / curve), {"tensors": 0})
    found.Reload()
    return found


def points(found: EventAccumulator, tag: str) -> dict[int, np.ndarray]:
    return {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in found.Tensors(tag)}


def tensors(root: Path, run_id: str, step: int = STEPS) -> dict[str, np.ndarray]:
    return load(RunDir(str(root / "runs"), run_id), step)[0]


def weights(root: Path, step: int) -> dict[str, np.ndarray]:
    kept = tensors(root, "whole", step)
    found = {name.removeprefix("model/"): value for name, value in kept.items() if name.startswith("model/")}
    return {name: value for name, value in found.items() if not name.startswith("seed_generator")}


def test_norms_are_those_of_the_checkpointed_weights(root, whole):
    for step in range(2, STEPS + 1, 2):
        squares = {name: float(np.sum(np.square(w.astype(np.float64)))) for name, w in weights(root, step).items()}
        assert len(squares) > 8
        for name, square in squares.items():
            assert points(whole, f"weight_norm/{name}")[step] == pytest.approx(square**0.5, rel=1e-6)
        assert points(whole, "weight_norm/all")[step] == pytest.approx(sum(squares.values()) ** 0.5, rel=1e-6)


def test_gradients_are_those_of_the_step_before_they_are_clipped(root, whole):
    for step in (2, 6, 12):
        before, after = weights(root, step - 1), weights(root, step)
        tags = [
            tag for tag in whole.Tags()["tensors"] if tag.startswith("gradient_norm/") and tag != "gradient_norm/all"
        ]
        moved = {tag: (before[name] - after[name]) / RATE for tag in tags for name in [tag.partition("/")[2]]}
        assert len(moved) >= 8
        whole_norm = float(points(whole, "gradient_norm/all")[step])
        assert whole_norm > 0.1, "nothing would be clipped"
        assert np.sqrt(sum(np.sum(np.square(g.astype(np.float64))) for g in moved.values())) == pytest.approx(
            0.05, 1e-3
        )
        for tag, gradient in moved.items():
            shrunk = float(points(whole, tag)[step]) * 0.05 / whole_norm
            assert shrunk == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=0.01, abs=1e-5)


def test_histograms_count_every_element_where_it_lies(root, whole):
    for name, array in weights(root, 8).items():
        buckets = points(whole, f"weights/{name}")[8]
        assert buckets.shape == (30, 3) and buckets[:, 2].sum() == array.size
        np.testing.assert_array_equal(buckets[1:, 0], buckets[:-1, 1])
        if np.ptp(array) == 0:
            continue
        values = np.sort(array.astype(np.float64).reshape(-1))
        assert buckets[0, 0] == values[0] and buckets[-1, 1] == values[-1]
        below = np.searchsorted(values, buckets[:, 1], side="left")
        below[-1] = array.size
        assert np.abs(np.cumsum(buckets[:, 2]) - below).max() <= 1  # an edge falls on an element
    assert sorted(points(whole, "weights/" + name)) == [4, 8, 12]
    gradients = [tag for tag in whole.Tags()["tensors"] if tag.startswith("gradients/")]
    assert len(gradients) >= 8 and all(points(whole, tag)[12][:, 2].sum() > 0 for tag in gradients)


def test_images_are_the_augmented_ones_of_the_step(root, whole):
    for step in (4, 12):
        fed = first_images(root, step)
        np.testing.assert_allclose(shown_images(whole, step), fed, atol=0.51)
        assert fed.std() > 30
    assert not np.allclose(first_images(root, 12, augment=AugmentSpec()), fed, atol=0.51)


def first_images(root: Path, step: int, replicas: int = 1, augment: AugmentSpec | None = None) -> np.ndarray:
    """The first five that the first replica is fed in this step."""
    asked = looked_at(root, "whole")
    asked.data.augment = augment or asked.data.augment
    shape, manifest = BatchShape(BATCH, 2, replicas), load_manifest(data_url(asked))
    dataset = training_dataset(manifest, asked.data, asked.seed, shape, range(1), 8, step - 1, lambda _: None)
    return next(iter(dataset))["image"].numpy()[:5]


def shown_images(found: EventAccumulator, step: int) -> np.ndarray:
    strings = points(found, "images")[step]
    assert [int(text) for text in strings[:2]] == [8, 8] and len(strings) == 7
    return np.stack([np.asarray(Image.open(io.BytesIO(png)))[..., None] for png in strings[2:]])


def test_times_and_memory_are_drawn(whole):
    parts = [
        points(whole, f"time/{name}_s") for name in ("input_wait", "compute", "reduce", "checkpoint", "evaluation")
    ]
    steps = points(whole, "step_time_s")
    for step in range(4, STEPS + 1, 2):  # the first call of the loop compiles
        assert all(part[step] >= 0 for part in parts) and parts[1][step] > 0 and parts[3][step] > 0
        assert sum(float(part[step]) for part in parts) < 3 * float(steps[step]) + 1
    assert min(points(whole, "memory/host_bytes").values()) > 100e6


def test_a_run_that_goes_on_draws_the_same_and_looking_changes_no_bit(root, whole):
    found = events(root, "in-two")
    timed = ("time/", "memory/", "examples_per_s", "step_time_s", "job")
    tags = [tag for tag in whole.Tags()["tensors"] if not tag.startswith(timed)]
    assert set(tags) <= set(found.Tags()["tensors"]) and len(tags) > 40
    for tag in tags:
        assert_same(whole, found, tag)
    plain = tensors(root, "plain")
    for run_id in ("whole", "in-two"):
        kept = tensors(root, run_id)
        assert [name for name in plain if not np.array_equal(plain[name], kept[name])] == []
    assert not [tag for tag in events(root, "plain").Tags()["tensors"] if "/" in tag]


def assert_same(one: EventAccumulator, other: EventAccumulator, tag: str) -> None:
    values, others = points(one, tag), points(other, tag)
    assert values.keys() == others.keys(), tag
    for step, value in values.items():
        np.testing.assert_array_equal(value, others[step], err_msg=tag)


def test_a_run_in_a_bucket_shows_the_same_across_a_restart(root, whole, tmp_path):
    mirror = Mirror(FAR, "far", tmp_path)
    assert mirror.pull() > 4 and mirror.pull() == 0
    found = EventAccumulator(str(tmp_path / "train"), {"tensors": 0})
    found.Reload()
    shown = ("weight_norm/", "gradient_norm/", "weights/", "gradients/", "images", "loss")
    tags = [tag for tag in whole.Tags()["tensors"] if tag.startswith(shown)]
    assert len(tags) > 40
    for tag in tags:
        assert_same(whole, found, tag)
    (trace,) = (tmp_path / "plugins" / "profile").glob("*/*.xplane.pb")
    assert STEP.encode() in trace.read_bytes()
    assert list((tmp_path / "hparams").iterdir())


def test_the_chosen_steps_are_traced_where_tensorboard_looks_for_them(root, whole):
    assert traced_steps(root, "whole") == {6, 7}
    assert not (root / "runs" / "plain" / "tensorboard" / "plugins").exists()


def traced_steps(root: Path, run_id: str) -> set[int]:
    """Of the one trace of a run."""
    (trace,) = (root / "runs" / run_id / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    steps = set()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                if plane.event_metadata[event.metadata_id].name.startswith(STEP):
                    numbers = {plane.stat_metadata[stat.metadata_id].name: stat.int64_value for stat in event.stats}
                    steps.add(numbers["step_num"])
    return steps


def test_steps_that_never_come_are_refused():
    def asked(*steps: int) -> SimpleNamespace:
        job = JobSpec(trainer=TrainerSpec(profile=list(steps)))
        return SimpleNamespace(
            job=job, lengths=Lengths(40, 10, (40,)), topology=SimpleNamespace(is_chief=False), channel=None
        )

    assert profile_of(asked(30, 50), None).ends() == range(30, 51)
    with pytest.raises(BadSpec, match=r"trainer\.profile=\[40, 50\] - the training is 40 steps long - .*=\[30,40\]"):
        profile_of(asked(40, 50), None)


@pytest.fixture(scope="module", params=["mirrored", "workers"])
def several(folder, request) -> str:
    """A run of two replicas that was looked at."""
    asked = looked_at(folder, request.param, steps=4)
    asked.trainer.optimizer.clip_norm = None
    asked.trainer.groups = [GroupSpec("head", OptimizerSpec("sgd", HEAD_RATE, momentum=0.0))]
    asked.trainer.profile = [2, 4]
    asked.cluster = gang.cluster_of(request.param)
    gang.finish(gang.train(asked, asked.cluster.workers))
    return request.param


def test_norms_and_rates_of_several_replicas_are_those_of_the_global_batch(folder, several):
    found = events(folder, several)
    for step in (2, 4):
        before, after = tensors(folder, several, step - 1), tensors(folder, several, step)
        tags = {tag for tag in found.Tags()["tensors"] if tag.startswith("gradient_norm/")} - {"gradient_norm/all"}
        assert len(tags) >= 8
        for tag in tags:
            name = f"model/{tag.partition('/')[2]}"
            rate = HEAD_RATE if name.startswith("model/logits") else RATE
            gradient = (before[name].astype(np.float64) - after[name]) / rate
            assert float(points(found, tag)[step]) == pytest.approx(np.linalg.norm(gradient), rel=1e-3, abs=1e-5)
            norm = float(points(found, name.replace("model", "weight_norm", 1))[step])
            assert norm == pytest.approx(np.linalg.norm(after[name].astype(np.float64)), rel=1e-6)
        drawn = {tag: float(points(found, tag)[step]) for tag in ("learning_rate", "learning_rate_group1")}
        assert drawn == pytest.approx({"learning_rate": RATE, "learning_rate_group1": HEAD_RATE})


def test_histograms_of_several_replicas_count_each_element_once(folder, several):
    found, after = events(folder, several), tensors(folder, several, 4)
    names = [tag.partition("/")[2] for tag in found.Tags()["tensors"] if tag.startswith("gradients/")]
    assert len(names) >= 8
    for name in names:
        buckets = {kind: points(found, f"{kind}/{name}")[4] for kind in ("weights", "gradients")}
        assert all(drawn[:, 2].sum() == after[f"model/{name}"].size for drawn in buckets.values())
        assert buckets["weights"][-1, 1] == pytest.approx(after[f"model/{name}"].max(), abs=1e-12)


def test_several_replicas_show_what_the_first_is_fed_their_times_and_one_trace(folder, several):
    found = events(folder, several)
    np.testing.assert_allclose(shown_images(found, 4), first_images(folder, step=4, replicas=2), atol=0.51)
    times = [points(found, f"time/{part}_s")[4] for part in ("input_wait", "compute", "reduce", "checkpoint")]
    assert times[1] > 0 and min(times) >= 0 and points(found, "memory/host_bytes")[4] > 100e6
    assert traced_steps(folder, several) == {2, 3}
    begun, ended = sorted((folder / "runs" / several / "tensorboard" / "hparams").iterdir())
    assert b"sgd" in begun.read_bytes() and ended.stat().st_size > 0


def test_the_parts_of_a_steps_time_add_up():
    ledger = Ledger(iter(np.arange(100.0)).__next__)
    ledger.began(0)
    ledger.trained(2, 50.0, 1.0, 40.0)  # compiles
    ledger.trained(4, 10.0, 2.0, 7.0)
    ledger.trained(6, 10.0, 1.0)  # without clocks
    parts = ledger.parts()
    assert parts == {"input_wait": 3.0, "compute": 14.0, "reduce": 3.0, "checkpoint": 0, "evaluation": 0, "steps": 4}
