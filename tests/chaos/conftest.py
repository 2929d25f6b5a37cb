"""What `make chaos`, `make deaths` and `make law4` share with the end-to-end tests, and a way to show a table."""

from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end.conftest import convoy
from tests.storage.fault_proxy import FaultProxy, running_proxy
from tests.storage.gcs_server import running_gcs_server

__all__ = ["convoy"]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A GCS server behind the fault proxy; every process here goes through it."""
    environment = pytest.MonkeyPatch.context()
    with running_gcs_server(tmp_path_factory.mktemp("gcs")) as url, running_proxy(url) as proxy, environment as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@pytest.fixture
def show(capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print lines past pytest's capture."""

    def lines(*said: str) -> None:
        with capfd.disabled():
            for line in said:
                print(line, flush=True)  # noqa: T201

    return lines
