"""Jobs on a Ray whose hosts die, come back or are too few at first: they shrink, grow, and end as calm ones do."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.test_resume import weights
from tests.ray_cluster import ray_cluster

JOB = (
    "trainer.global_batch_size=32",
    "trainer.steps=600",
    "trainer.steps_per_loop=2",
    "trainer.checkpoint_every_steps=100",
    "trainer.eval_every_steps=300",
    "trainer.optimizer.name=sgd",
    "trainer.model.dropout=0",
    "trainer.evaluate_at_end=false",
    "trainer.export_at_end=false",
)
#: The first two attempts take their time, so that hosts can die and come back under them.
SLOW = ("fault.slow_rank=0", "fault.slow_s=0.05", "fault.at_step=1", "fault.attempts=[1,2]")


class Hosts:
    """A head that takes no workers, and two hosts, at first, with room for one worker each."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        self.address = cluster.address

    def kill_one(self) -> None:
        """SIGKILL to a raylet."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def add_one(self) -> None:
        """Another host."""
        self.nodes.append(self._cluster.add_node(num_cpus=1))


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ray_cluster(0) as cluster:
        yield Hosts(cluster)


def until(convoy: Any, run_id: str, process: Any, is_so: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Wait until the events of a run say so."""
    deadline = time.monotonic() + 120
    while not is_so(convoy.events(run_id)):
        assert time.monotonic() < deadline, convoy.events(run_id)[-8:]
        assert process.poll() is None, process.stdout.read()[-1500:]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_goes_on_with_fewer_workers_and_grows_back(convoy, hosts):
    elastic = ("cluster.min_workers=1", "cluster.capacity_timeout_s=1", f"cluster.address={hosts.address}")
    process = convoy.start("run_id=elastic", "cluster=2cpu", *elastic, *JOB, *SLOW)
    until(convoy, "elastic", process, lambda events: "straggler" in kinds(events))  # there are steps to be lost now
    hosts.kill_one()
    until(convoy, "elastic", process, lambda events: sizes(events) == [2, 1])
    hosts.add_one()
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0, said[-4000:]
    events = convoy.events("elastic")
    assert sizes(events) == [2, 1, 2]
    assert next(event["rank"] for event in events if event["kind"] == "straggler") == 0
    assert "the others wait for rank 0" in said
    assert "going on with 1 of 2 workers" in said and "there is room for 2 workers again" in said
    ends = [event["details"]["kind"] for event in events if event["kind"] == "attempt_ended"]
    assert ends[-3:] == ["infrastructure", "resized", "done"]
    spent = convoy.json("elastic", "report/goodput.json")
    assert spent["parts_s"]["capacity"] > 0.5 and spent["parts_s"]["lost_work"] > 0
    assert spent["lost_steps"] > 2 and spent["steps"] == 600
    assert sum(spent["parts_s"].values()) == pytest.approx(spent["wall_s"], abs=0.01)
    convoy.run("run_id=calm", "cluster=2cpu", *JOB)
    assert_alike(weights(convoy, "elastic", 600), weights(convoy, "calm", 600))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_three_workers_of_which_two_find_hosts_and_then_one_dies(convoy, hosts):
    """Never all at once: it begins with two of three, grows to three, and goes on with two when a host dies.

    A global batch of 48 can be cut into 3, 2 and 1.
    """
    job = (*JOB, "cluster=2cpu", "cluster.workers=3", "trainer.global_batch_size=48", "trainer.steps=400")
    # Roundings that differ grow with every step. Checkpoints come often, and steps slowly while hosts come and go.
    job = (*job, "trainer.optimizer.learning_rate=0.001", "trainer.checkpoint_every_steps=20")
    elastic = ("cluster.min_workers=2", "cluster.capacity_timeout_s=1", f"cluster.address={hosts.address}")
    process = convoy.start("run_id=three", *elastic, *job, *SLOW, "fault.slow_s=0.2")
    until(convoy, "three", process, lambda events: sizes(events) == [2] and "first_step" in kinds(events))
    hosts.add_one()
    until(convoy, "three", process, lambda events: sizes(events) == [2, 3] and "first_step" in kinds(newest(events)))
    until(convoy, "three", process, lambda events: "checkpoint_saved" in kinds(newest(events)))
    hosts.kill_one()
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0, said[-4000:]
    events = convoy.events("three")
    assert sizes(events) == [2, 3, 2]
    assert said.count("going on with 2 of 3 workers") == 2 and "there is room for 3 workers again" in said
    ends = [event["details"]["kind"] for event in events if event["kind"] == "attempt_ended"]
    assert ends[-3:] == ["resized", "infrastructure", "done"]
    assert 20 < newest(convoy.events("three", "restored"))[0]["details"]["step"] < 400
    convoy.run("run_id=one", *job, "cluster=1cpu", "cluster.workers=1")
    assert_alike(weights(convoy, "three", 400), weights(convoy, "one", 400))


def assert_alike(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Every tensor is the same to 1e-5 of its largest value."""
    assert left.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_allclose(left[name], value, rtol=0, atol=1e-5 * max(np.abs(value).max(), 1), err_msg=name)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


def newest(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the last attempt told."""
    return [event for event in events if event["attempt"] == events[-1]["attempt"]]


def sizes(events: list[dict[str, Any]]) -> list[int]:
    """How many workers each attempt of the training had."""
    started = [event["details"] for event in events if event["kind"] == "attempt_started"]
    return [details["workers"] for details in started if details["module"] == "trainer.worker"]
