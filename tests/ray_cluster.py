"""A Ray cluster of several hosts on loopback, in a temporary folder of its own."""

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.gate import prepare_own_ray


@contextmanager
def ray_cluster(head_cpus: int) -> Iterator[Any]:
    """Ray's own Cluster with a head so large; `add_node(num_cpus=...)` adds a host. All ends with the context."""
    prepare_own_ray()  # loopback alone, which Ray decides while it is imported
    made = importlib.import_module("ray.cluster_utils").Cluster
    folder = tempfile.mkdtemp(prefix="convoy-ray-")  # short: the names of sockets must fit into 107 bytes
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where it notes its address, and expects a folder
    cluster = None
    try:
        cluster = made(True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False, "temp_dir": folder})
        yield cluster
    finally:
        if cluster is not None:
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
