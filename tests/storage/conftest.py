"""The stores that the contract tests run on: a directory, a real GCS server, and that server on a bad day."""

import importlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import storage
from storage.store import Store, open_store
from tests.storage.fault_proxy import Fault, FaultProxy, running_proxy
from tests.storage.gcs_server import BUCKET, running_gcs_server


def pytest_configure(config: pytest.Config) -> None:
    """Google's library warns about a part that nothing here uses, and leaves idle connections to the collector."""
    config.addinivalue_line("filterwarnings", "ignore:Please install grpcio-status:ImportWarning")
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a GCS server."""
    with running_gcs_server(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture
def proxy(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the GCS server, which the client goes through; retries come quickly."""
    retries = importlib.import_module("storage.gcs_retries")
    monkeypatch.setattr(retries, "BACK_OFF_S", 0.01)
    monkeypatch.setattr(
        retries, "PART_RETRY", retries.PART_RETRY.with_delay(initial=0.01, maximum=0.1).with_timeout(0.5)
    )
    with running_proxy(gcs_server) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@pytest.fixture
def gcs_url() -> str:
    """A path in the bucket that nobody has used."""
    return f"gs://{BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture(params=["local", "third", "gcs", "gcs with faults"])
def store(request: pytest.FixtureRequest, tmp_path: Path, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of every kind; the third is the file `shelf.py` beside this one, found by its name."""
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    if request.param == "third":
        monkeypatch.setattr(storage, "__path__", [*storage.__path__, str(Path(__file__).parent)])
        monkeypatch.delitem(sys.modules, "storage.shelf", raising=False)
        return open_store(f"shelf://{tmp_path}/store")
    if request.param == "gcs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs_server"))
    else:
        proxy = request.getfixturevalue("proxy")
        kinds = ["status", "reset", "status", "lose_reply"]
        proxy.faults += [
            Fault(kind, method, skip=n) for method in ("GET", "POST", "PUT", "DELETE") for n, kind in enumerate(kinds)
        ]
    return open_store(gcs_url)
