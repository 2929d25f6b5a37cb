"""A sweep on a Ray cluster that is running: as many trials at once as its hosts hold. `make sweep`."""

import csv
import io
import time

import pytest

from tests.ray_cluster import ray_cluster

WORDS = ("trainer.steps=20", "trainer.evaluate_at_end=false", "trainer.export_at_end=false", "seed=0,1,2")


@pytest.mark.timeout(600)
def test_trials_share_the_hosts_of_a_running_cluster(convoy):
    with ray_cluster(0) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        address = f"cluster.address={cluster.address}"
        plan = convoy.run("-m", "run_id=s", address, *WORDS, "dry_run=true")
        assert "3 trials, 2 at a time" in plan
        process = convoy.start("-m", "run_id=s", address, *WORDS)
        at_once = 0
        while process.poll() is None:
            leases = [path for path in convoy.runs.glob("s-*/driver.lease")]
            at_once = max(at_once, len(leases))
            time.sleep(0.1)
        said = process.communicate()[0]
    assert process.returncode == 0, said[-3000:]
    assert at_once == 2
    table = list(csv.DictReader(io.StringIO((convoy.runs / "s" / "report" / "sweep.csv").read_text())))
    assert [row["state"] for row in table] == ["succeeded"] * 3
    accuracies = [float(row["validation_accuracy"]) for row in table]
    assert accuracies == sorted(accuracies, reverse=True)
    for run_id in ("s-001", "s-002", "s-003"):
        assert convoy.json(run_id, "outcome.json")["state"] == "succeeded"
