"""The run directory: names, JSON, events, files that are written here and kept there."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import data_dir, run_dir
from storage.run_dir import RunDir
from storage.store import NotStored, Store, StoreError


@pytest.fixture
def run(store: Store) -> RunDir:
    """An empty run directory in a store of every kind."""
    return RunDir(store.url, "xception-digits")


def test_json_comes_back(run: RunDir) -> None:
    """What is written is read; what is absent or no JSON is named."""
    run.write_json(run_dir.OUTCOME, {"state": "succeeded", "step": 7})
    assert run.read_json(run_dir.OUTCOME) == {"state": "succeeded", "step": 7}
    with pytest.raises(NotStored, match=r"metrics\.json"):
        run.read_json(run_dir.METRICS)
    run.store.put(run_dir.METRICS, b"{")
    with pytest.raises(StoreError, match=r"metrics\.json: not JSON"):
        run.read_json(run_dir.METRICS)


def test_a_run_exists_with_its_job(run: RunDir) -> None:
    """Other files do not make a run."""
    run.write_json(run_dir.OUTCOME, {})
    assert not run.exists()
    run.store.put(run_dir.JOB, b"job: train\n")
    assert run.exists()


def test_events_keep_their_order(run: RunDir) -> None:
    """Events come back oldest first, each with its time."""
    assert list(run.events()) == []
    for number in range(5):
        run.append_event({"kind": "test", "number": number})
    events = list(run.events())
    assert [event["number"] for event in events] == list(range(5))
    assert all(event["time"].endswith("+00:00") for event in events)


def test_events_from_many_at_once_are_all_there(run: RunDir) -> None:
    """No event is lost or mixed with another."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: run.append_event({"number": number, "text": "x" * 3000}), range(24)))
    assert sorted(event["number"] for event in run.events()) == list(range(24))


def test_half_an_event_spoils_no_other(tmp_path: Path) -> None:
    """A line that a dying process left is ended by the next writer and passed over by readers."""
    run = RunDir(str(tmp_path), "x")
    run.append_event({"number": 1})
    with run.local(run_dir.EVENTS).open("ab") as file:
        file.write(b'{"number": 2, "te')
    run.append_event({"number": 3})
    assert [event["number"] for event in run.events()] == [1, 3]
    lines = (tmp_path / "x" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in (lines[0], lines[2])] == [1, 3]


@pytest.mark.parametrize(
    "line", [b"5", b"null", b"[1]", b'"x"', b'{"details": [1]}', b'{"attempt": "x"}', b'{"rank": [0]}', b"[" * 99_999]
)
def test_what_is_no_event_spoils_no_other(tmp_path: Path, line: bytes) -> None:
    """Whoever reads events need not ask whether they are some."""
    run = RunDir(str(tmp_path), "x")
    run.append_event({"number": 1, "attempt": 1, "rank": None, "details": {}})
    with run.local(run_dir.EVENTS).open("ab") as file:
        file.write(line + b"\n\xff\xfe\n")
    run.append_event({"number": 3, "details": None})
    assert [event["number"] for event in run.events()] == [1, 3]


def test_published_files_are_in_the_store(run: RunDir) -> None:
    """A file or a whole folder is written here and kept there, under the same names."""
    run.local("report/metrics.json").write_text("{}")
    folder = run.local(run_dir.SAVED_MODEL)
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "0").write_bytes(b"weights")
    run.publish("report/metrics.json")
    run.publish(run_dir.SAVED_MODEL)
    assert run.store.get("report/metrics.json") == b"{}"
    assert [stored.name for stored in run.store.list("export/")] == [
        "export/saved_model/saved_model.pb",
        "export/saved_model/variables/0",
    ]


def test_two_runs_do_not_see_each_other(store: Store) -> None:
    """Not even when one name begins with the other."""
    RunDir(store.url, "a").write_json("x.json", 1)
    assert list(RunDir(store.url, "a2").store.list()) == []
    assert [stored.name for stored in RunDir(store.url, "a").store.list()] == ["x.json"]


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "/a"])
def test_a_run_id_is_one_name(tmp_path: Path, run_id: str) -> None:
    """It cannot lead out of the root."""
    with pytest.raises(StoreError):
        RunDir(str(tmp_path), run_id)


@pytest.mark.parametrize("job", ["{}/x/job.yaml", "{}/x/attempts/03/job.yaml"])
def test_the_run_of_a_job_file(tmp_path: Path, job: str) -> None:
    """The run's own job and those of its attempts lead to the same directory."""
    run = RunDir.of_job(job.format(tmp_path))
    assert (run.url, run.run_id) == (str(tmp_path / "x"), "x")


def test_a_file_that_is_no_job_has_no_run(tmp_path: Path) -> None:
    """The error says which file is meant."""
    with pytest.raises(StoreError, match="give <root>"):
        RunDir.of_job(str(tmp_path / "other.yaml"))


def test_names() -> None:
    """The names that people and other programs rely on."""
    assert run_dir.attempt_job_name(3) == "attempts/03/job.yaml"
    assert run_dir.log_name(3, 1) == "attempts/03/rank_1.log"
    assert run_dir.stacks_name(3, 1) == "attempts/03/rank_1.stacks"
    assert run_dir.checkpoint_name(120) == "checkpoints/step_00000120"
    assert run_dir.checkpoint_step("checkpoints/step_00000120/manifest.json") == 120
    assert run_dir.checkpoint_step("checkpoints/step_x/manifest.json") is None
    assert data_dir.shard_name("train", 0, 4) == "train-00000-of-00004.tfrecord"
    assert data_dir.index_name("train-00000-of-00004.tfrecord") == "train-00000-of-00004.tfrecord.index"
    assert data_dir.default_data_url("gs://b/runs/", "digits", "1a2b") == "gs://b/runs/_data/digits-1a2b"


def test_prepared_data_has_a_manifest(store: Store) -> None:
    """Shards alone are not a prepared set."""
    store.put(data_dir.shard_name("train", 0, 1), b"records")
    assert not data_dir.is_prepared(store.url)
    store.put(data_dir.MANIFEST, b"{}")
    assert data_dir.is_prepared(store.url)
