"""A bucket that does not answer is no fault of the words: nobody is told never to try again."""

import importlib
from dataclasses import replace

import pytest

from conf.errors import BadSpec
from launcher.compose import compose
from launcher.gate import prepare_own_ray
from launcher.messages import Order
from launcher.recovery import Action, Kind, decide, diagnose
from launcher.saved import check_writable, open_run
from storage.run_dir import RunDir
from storage.store import StoreAway
from tests.storage.conftest import gcs_server, gcs_url, proxy  # noqa: F401
from tests.storage.fault_proxy import Fault, FaultProxy


def test_a_command_that_finds_its_bucket_away_may_come_again(proxy: FaultProxy, gcs_url: str) -> None:  # noqa: F811
    asked = compose(["storage=gcs", f"storage.root={gcs_url}", "run_id=x"])
    run_dir, job = open_run(asked, "x")
    proxy.faults = [Fault("status", method, uses=-1) for method in ("GET", "POST")]
    with pytest.raises(StoreAway, match="503"):
        open_run(asked, "x")
    with pytest.raises(StoreAway, match="503"):
        check_writable(run_dir, job)
    proxy.faults = [Fault("status", method, status=403, uses=-1) for method in ("GET", "POST")]
    with pytest.raises(BadSpec, match=r"storage\.root=.* cannot be read .*no permission"):
        open_run(asked, "x")
    with pytest.raises(BadSpec, match=r"storage\.root=.* cannot be written to .*no permission"):
        check_writable(run_dir, job)


def test_a_host_that_finds_the_bucket_away_is_asked_again(proxy: FaultProxy, gcs_url: str) -> None:  # noqa: F811
    prepare_own_ray()
    agent = importlib.import_module("launcher.agent").Agent(0)
    RunDir(gcs_url, "x").store.put("job.yaml", b"hallo")
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"
    order = Order("m", (), gcs_url, "x", "log", job=("job.yaml", digest))
    for status, kind, action in ((503, Kind.infrastructure, Action.restart), (403, Kind.bad_spec, Action.give_up)):
        proxy.faults = [Fault("status", "GET", status=status, uses=-1)]
        agent.start(order)
        ending = diagnose({0: agent.poll(0.0)}, stop_requested=False)
        assert (ending.kind, decide([ending], max_restarts=1).action) == (kind, action)
        assert str(gcs_url) in ending.message
    proxy.faults = []
    agent.start(replace(order, job=("job.yaml", digest)))
    assert "sees another job" in agent.poll(0.0).error["message"]
