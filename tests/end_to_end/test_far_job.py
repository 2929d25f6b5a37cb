"""A whole job in a bucket: prepared data, checkpoints, curves, logs, events, report and export, killed and resumed.

On a real GCS server, two workers, through a cache that the training split does not fit into, with two corrupt records.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from data_pipeline.manifest import load_manifest
from storage.data_dir import index_name
from storage.run_dir import RunDir, checkpoint_step
from storage.store import Store, open_store
from tests.curves import curve
from tests.end_to_end.conftest import Command
from tests.storage.fault_proxy import Fault, running_proxy
from tests.storage.gcs_server import BUCKET, running_gcs_server

ROOT = f"gs://{BUCKET}/runs"
FAR = ("storage=gcs", f"storage.root={ROOT}")
STEPS, AN_EPOCH = 120, 39
JOB = (
    "cluster=2cpu",
    "data.num_shards=6",
    "data.order=blocks",
    "data.memory_bytes=0",  # nothing is kept in memory: every epoch reads every record
    "data.cache_bytes=300000",
    "data.on_corrupt=skip",
    "data.max_corrupt=1",
    "trainer.global_batch_size=32",
    "trainer.eval_batch_size=32",
    f"trainer.steps={STEPS}",
    "trainer.checkpoint_every_steps=20",
    "trainer.steps_per_loop=5",
    "trainer.model.options.batch_norm=true",
    "data.augment.pad_crop=1",
)


@dataclass
class Job:
    """What came of the same job near and far."""

    near: RunDir
    far: RunDir
    said: str
    left: list[str]
    attempts: int
    faults_met: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which a GCS server keeps the bucket; every process here finds the server."""
    folder = tmp_path_factory.mktemp("gcs")
    with running_gcs_server(folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        yield folder


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """The temporary folder of all jobs here, which nobody else uses. Short, for Ray puts sockets into it."""
    with (
        tempfile.TemporaryDirectory(prefix="cv-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def job(convoy: Command, server: Path, temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job, calm on this machine's disk; in the bucket on a bad day, its driver and then a worker killed."""
    words = (*JOB, f"data.cache_dir={tmp_path_factory.mktemp('cache')}")
    convoy.run("job=prepare", *words, *FAR)
    assert list(open_store(ROOT).list_folders()) == ["_data"], "a preparation leaves the set alone"
    prepared = next(path for path in (server / BUCKET / "runs" / "_data").iterdir())
    for split, record in (("train", 17), ("test", 3)):
        damage(prepared.name, split, record)
    shutil.copytree(prepared, convoy.runs / "_data" / prepared.name)
    convoy.run("run_id=calm", *words)
    with stormy_weather() as faults:
        far, said = run_stormy(convoy, words)
        met = sum(fault.uses == 0 for fault in faults)
    attempts = far.read_json("outcome.json")["attempts"]
    return Job(RunDir(str(convoy.runs), "calm"), far, said, left_in(temporary), attempts, met)


@contextmanager
def stormy_weather() -> Iterator[list[Fault]]:
    """Jobs that are started inside reach the server through a proxy which breaks a request now and then."""
    with running_proxy(os.environ["STORAGE_EMULATOR_HOST"]) as proxy, pytest.MonkeyPatch.context() as patch:
        for place in range(12):
            for method, kinds in (("POST", "status reset lose_reply"), ("GET", "status cut reset flip lose_reply")):
                kind = kinds.split()[place % len(kinds.split())]
                path = "alt=media" if kind in ("cut", "flip") else ""
                proxy.faults.append(Fault(kind, method, path, skip=5 + 15 * place))
        patch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy.faults


def run_stormy(convoy: Command, words: Sequence[str]) -> tuple[RunDir, str]:
    """Kill the driver, after the next checkpoint of the same command a worker; where it is, and what it said."""
    far = RunDir(ROOT, "stormy")
    driver = convoy.start("run_id=stormy", *words, *FAR)
    wait_for(driver, lambda: saved_steps(far))
    driver.kill()
    driver.communicate()
    before = max(saved_steps(far))
    driver = convoy.start("run_id=stormy", *words, *FAR)
    wait_for(driver, lambda: max(saved_steps(far), default=0) > before)
    os.kill(events(far, "worker_started")[-1]["details"]["pid"], signal.SIGKILL)
    said, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, said[-3000:]
    return far, said


def damage(name: str, split: str, record: int) -> None:
    """Flip a bit in the middle of a record of the first shard, as if it had been written like that."""
    store = open_store(f"{ROOT}/_data/{name}")
    shard = load_manifest(store.url).splits[split].shards[0].name
    offset, length = np.frombuffer(store.get(index_name(shard)), "<u8").reshape(-1, 2)[record].tolist()
    data = bytearray(store.get(shard))
    data[offset + length // 2] ^= 4
    store.put(shard, bytes(data))


def left_in(temporary: Path) -> list[str]:
    """What jobs have left in their temporary folder."""
    return sorted(path.name for path in temporary.iterdir())


def events(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["kind"] == kind]


def saved_steps(run: RunDir) -> list[int]:
    names = [stored.name for stored in run.store.list("checkpoints/") if stored.name.endswith("/manifest.json")]
    return [step for name in names if (step := checkpoint_step(name))]


def wait_for(process: "subprocess.Popen[str]", look: Callable[[], Any], timeout_s: float = 150) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if found := look():
            return found
        time.sleep(0.2)
    process.kill()
    said, _ = process.communicate()
    raise AssertionError(f"nothing was found; exit code {process.returncode}: {said[-3000:]}")


def names(store: Store) -> set[str]:
    """What a run leaves, without the numbers and nonces that differ from one run to another."""
    found = {stored.name for stored in store.list()} - {"events.jsonl"}
    found = {re.sub(r"-[0-9a-f]{16}-", "-", re.sub(r"attempt_\d+", "attempt", name)) for name in found}
    found = {re.sub(r"tfevents\..*", "tfevents", name) for name in found if not name.startswith("attempts/")}
    return {name for name in found if not name.startswith("events/")}


@pytest.mark.timeout(500)
def test_everything_that_a_local_run_leaves_is_in_the_bucket(job: Job) -> None:
    near, far = names(job.near.store), names(job.far.store)
    assert near == far
    assert {"job.yaml", "outcome.json", "report/metrics.json", "export/saved_model/saved_model.pb"} < far
    assert {"tensorboard/train/events.out.tfevents", "tensorboard/validation/events.out.tfevents"} < far
    assert job.far.read_json("outcome.json")["state"] == "succeeded"
    assert {"attempt_started", "restored", "evaluated", "checkpoint_saved", "exported", "succeeded"} <= {
        event["kind"] for event in job.far.events()
    }


def test_the_weights_are_those_of_a_calm_local_run_bit_for_bit(job: Job) -> None:
    near, far = weights(job.near), weights(job.far)
    assert near.keys() == far.keys() and any(name.startswith("optimizer/") for name in near)
    assert not [name for name in near if not np.array_equal(near[name], far[name])]
    assert job.attempts >= 3 and len(events(job.far, "restored")) >= 4
    assert job.faults_met >= 12


def weights(run: RunDir) -> dict[str, np.ndarray]:
    folder = f"checkpoints/step_{STEPS:08d}"
    found = {}
    for file in run.read_json(f"{folder}/manifest.json")["tensors"]:
        found |= load(run.store.get(f"{folder}/{file['name']}"))
    return found


def test_corrupt_records_are_skipped_by_every_worker_alike_and_counted(job: Job) -> None:
    near, far = (run.read_json("report/metrics.json") for run in (job.near, job.far))
    assert near == far and far["skipped_examples"] == 1 and far["num_examples"] == 178
    told = {event["details"]["shard"] for event in events(job.far, "corrupt_record")}
    assert told == {"train-00000-of-00006.tfrecord", "test-00000-of-00006.tfrecord"}
    skipped = [count for _, count in curve(Path(job.near.url, "tensorboard", "train"), "skipped_examples")]
    # Once an epoch; the last, begun one may or may not have come to it.
    assert sum(skipped) in (STEPS // AN_EPOCH, STEPS // AN_EPOCH + 1)


def test_logs_are_whole_and_nothing_is_left_on_this_machine(job: Job) -> None:
    for rank in (0, 1):
        assert job.far.store.get(f"attempts/{job.attempts:02d}/rank_{rank}.log")
    parts = [stored.name for stored in job.far.store.list("attempts/") if ".part-" in stored.name]
    # The agents of the first driver died with it; theirs alone can have stayed in parts.
    assert all(name.startswith("attempts/01/") for name in parts)
    assert job.left == []
    assert f"job=tensorboard run_id=stormy storage=gcs storage.root={ROOT}" in job.said


def test_status_checkpoints_and_evaluate_work_on_it(job: Job, convoy: Command) -> None:
    said = convoy.run("job=status", "run_id=stormy", *FAR)
    assert re.search(rf"run +{ROOT}/stormy\nstate +succeeded\nstep +{STEPS}\n", said)
    said = convoy.run("job=checkpoints", "run_id=stormy", "checkpoints.verify=true", *FAR)
    assert said.count("whole, checksums verified") == 3
    before = job.far.read_json("report/metrics.json")
    job.far.store.delete("report/metrics.json")
    convoy.run("job=evaluate", "run_id=stormy", *FAR)
    assert job.far.read_json("report/metrics.json") == before


@dataclass
class Shown:
    """A TensorBoard that job=tensorboard has started."""

    process: "subprocess.Popen[str]"
    url: str

    def ask(self, what: str, **query: str) -> Any:
        """One of the JSON endpoints that its pages are drawn from."""
        words = urllib.parse.urlencode(query)
        with urllib.request.urlopen(f"{self.url}data/plugin/scalars/{what}?{words}") as reply:
            return json.load(reply)

    def curve(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Step and value of each point."""
        return [(step, value) for _, step, value in self.ask("scalars", run=run, tag=tag)]


def shown(convoy: Command, *words: str) -> Shown:
    process = convoy.start("job=tensorboard", "tensorboard.port=0", *words)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line + process.stdout.read()
    return Shown(process, address[0])


def test_tensorboard_shows_one_curve_across_all_deaths_and_pulls_the_news(
    job: Job, convoy: Command, temporary: Path
) -> None:
    """In a browser: what a calm local run has drawn. A run that begins meanwhile appears; Ctrl-C ends all of it."""
    board = shown(convoy, *FAR)
    try:
        wait_for(board.process, lambda: {"stormy/train", "stormy/validation"} <= board.ask("tags").keys())
        for split in ("train", "validation"):
            for tag in ("loss", "accuracy", "skipped_examples"):
                expected = curve(Path(job.near.url, "tensorboard", split), tag)
                assert board.curve(f"stormy/{split}", tag) == expected and len(expected) >= 3
        for stored in job.far.store.list("tensorboard/validation/"):
            name = stored.name.replace("/stormy/", "/")
            open_store(ROOT).put(f"later/{name}", job.far.store.get(stored.name))
        wait_for(board.process, lambda: "later/validation" in board.ask("tags"))
        port = board.url.rpartition(":")[2].strip("/")
        said = convoy.run("job=tensorboard", f"tensorboard.port={port}", *FAR, expect=78)
        assert re.search(rf"tensorboard\.port={port} - something else listens .* - tensorboard\.port=\d+", said)
    finally:
        board.process.send_signal(signal.SIGINT)
        said, _ = board.process.communicate(timeout=30)
    assert board.process.returncode == 0, said
    assert left_in(temporary) == []
    with pytest.raises(OSError):
        urllib.request.urlopen(board.url)


def test_tensorboard_shows_a_run_on_this_machine(job: Job, convoy: Command) -> None:
    board = shown(convoy, "run_id=calm")
    try:
        wait_for(board.process, lambda: {"train", "validation"} <= board.ask("tags").keys())
        expected = curve(Path(job.near.url, "tensorboard", "train"), "loss")
        assert board.curve("train", "loss") == expected
    finally:
        board.process.send_signal(signal.SIGTERM)
        board.process.communicate(timeout=30)
    assert board.process.returncode == 0
