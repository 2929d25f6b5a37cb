"""What every test may rely on: a quiet TensorFlow, and nothing left over in the environment from a job around it."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = "test_replicas.py"

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
for name in ("TF_CONFIG", "CONVOY_CONTROL_FD", "CONVOY_PROGRESS_FD", "RAY_ADDRESS"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository, where commands are typed."""
    return REPOSITORY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in tests/end_to_end, and run it last: small failures explain large ones.

    First what takes longest: where two processes share the tests, the other one goes through the small files meanwhile.
    """
    for item in items:
        if "end_to_end" in item.path.parts:
            item.add_marker("end_to_end")
    items.sort(key=lambda item: ("end_to_end" in item.path.parts, item.path.name != LONGEST))
