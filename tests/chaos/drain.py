"""A host that Ray drains, of three on loopback: all workers save, and the job goes on elsewhere, not counted."""

import importlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conf.schema import ClusterSpec
from launcher.gate import connected, grouped
from launcher.journal import STOP_REQUEST
from tests.launcher.test_group import CLUSTER, Job, when
from tests.ray_cluster import ray_cluster

DEADLINE_S = 60


@pytest.fixture
def address() -> Iterator[str]:
    """Three hosts with room for one worker each, as far as Ray can tell."""
    with ray_cluster(0) as cluster:
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        yield cluster.address


def drain(address: str, node: str) -> None:
    """What `ray drain-node` does."""
    reasons = importlib.import_module("ray.core.generated.autoscaler_pb2").DrainNodeReason
    client = importlib.import_module("ray._raylet").GcsClient(address=address)
    until_ms = int(time.time() * 1000) + 1000 * DEADLINE_S
    told = client.drain_node(node, reasons.Value("DRAIN_NODE_REASON_PREEMPTION"), "maintenance", until_ms)
    assert told[0], told


@pytest.mark.slow
def test_a_drained_host_is_left_in_time(address: str, tmp_path: Any) -> None:
    spec = ClusterSpec(**(vars(CLUSTER) | {"address": address}))
    with connected(spec) as placement, grouped(placement, 30) as gang:
        job = Job(gang, placement, tmp_path)
        drained = gang.gather()[1].node
        drainer = when((tmp_path / "seen_1").exists, lambda: drain(address, drained))
        stopper = when(lambda: job.events("restart"), lambda: job.run_dir.write_json(STOP_REQUEST, {}))
        found = job.run("wait", address=address, max_restarts=0, hang_timeout_s=60.0)
        drainer.join()
        stopper.join()
        assert (found.state, found.attempts) == ("stopped", 2), found.reason
        ended, restart = job.events("attempt_ended")[0]["details"], job.events("restart")[0]["details"]
        assert (ended["kind"], restart["counted"]) == ("preempted", False)
        assert "the host of rank 1 is drained" in restart["reason"]
        assert drained not in {report.node for report in gang.gather()}
