"""The log of a worker in a far run directory: readable while it grows, and not sent again and again."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launcher import log_copy
from launcher.log_copy import LogCopy
from storage.run_dir import RunDir, log_name
from storage.store import open_store
from tests.storage.conftest import gcs_server, gcs_url, proxy  # noqa: F401
from tests.storage.fault_proxy import Fault, FaultProxy

NAME = log_name(1, 0)


@pytest.fixture
def run(proxy: FaultProxy, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> RunDir:  # noqa: F811
    monkeypatch.setattr(log_copy, "SHORTEST_S", 0.01)
    monkeypatch.setattr(log_copy, "LONGEST_S", 0.01)
    return RunDir(gcs_url, "x")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def stored(run: RunDir) -> bytes:
    """All there is of the log, as `gcloud storage cat gs://.../rank_0.log*` shows it."""
    return b"".join(run.store.get(found.name) for found in run.store.list(NAME))


def holds(run: RunDir, num_bytes: int) -> bool:
    return len(stored(run)) >= num_bytes


def test_a_log_can_be_read_while_it_grows_and_is_one_object_in_the_end(run: RunDir, proxy: FaultProxy) -> None:  # noqa: F811
    path = run.local(NAME)
    path.write_bytes(b"")
    copy, whole = LogCopy(run, NAME, path), b""
    for number in range(8):
        line = b"%d %s\n" % (number, b"x" * 10_000)
        with path.open("ab") as log:
            log.write(line + b"half a line")
        whole += line
        wait_until(partial(holds, run, len(whole)))
        # Whole lines alone; what was sent is not sent again.
        assert stored(run) == whole
        with path.open("r+b") as log:
            log.truncate(len(whole))
    proxy.faults = [Fault("status", "POST", "upload")]
    with path.open("ab") as log:
        log.write(b"the end")
    copy.finish()
    assert [found.name for found in run.store.list("attempts/")] == [NAME]
    assert run.store.get(NAME) == whole + b"the end"
    sent = sum(length for request, length in proxy.sent_bytes if "upload" in request)
    assert sent < 3.2 * len(whole), "once in parts, once whole, once more for the fault"


def test_a_store_that_is_away_delays_lines_and_loses_none(run: RunDir, proxy: FaultProxy) -> None:  # noqa: F811
    path = run.local(NAME)
    path.write_bytes(b"one\n")
    proxy.faults = [Fault("status", "POST", "upload", status=403)]  # is not tried again: the first part is refused
    copy = LogCopy(run, NAME, path)
    wait_until(lambda: stored(run) == b"one\n")
    assert proxy.faults[0].uses == 0
    copy.finish()
    assert run.store.get(NAME) == b"one\n"


def test_a_worker_that_ends_at_once_sends_its_log_once(run: RunDir, proxy: FaultProxy, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(log_copy, "SHORTEST_S", 60.0)
    path = run.local(NAME)
    path.write_bytes(b"x" * 5000)
    LogCopy(run, NAME, path).finish()
    assert stored(run) == b"x" * 5000
    assert sum(length for request, length in proxy.sent_bytes if "upload" in request) < 6000


def test_a_log_on_this_machine_is_left_alone(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path), "x")
    path = run.local(NAME)
    path.write_bytes(b"one\n")
    LogCopy(run, NAME, path).finish()
    assert [found.name for found in open_store(str(tmp_path)).list()] == [f"x/{NAME}"]
