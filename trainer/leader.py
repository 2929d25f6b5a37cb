"""The first worker's port, which the others wait for before they make their strategy.

TensorFlow's workers connect to the first one when the strategy is made. Whoever comes before it listens is refused, and
gRPC then waits a whole second before it tries again: most of what a restart takes.
"""

import json
import socket
import time
from collections.abc import Mapping

#: How long to wait. Who is still missing then is the rendezvous of TensorFlow's own to tell, and the launcher's.
LONGEST_S = 20.0
CONNECT_S = 1.0
LOOK_S = 0.005


def wait_for_leader(environment: Mapping[str, str], longest_s: float = LONGEST_S) -> bool:
    """Whether the first worker of TF_CONFIG listens, after at most `longest_s`. For the first one itself: at once."""
    config = json.loads(environment.get("TF_CONFIG", "{}"))
    workers = config.get("cluster", {}).get("worker", [])
    if len(workers) < 2 or config.get("task", {}).get("index") == 0:
        return True
    host, _, port = workers[0].rpartition(":")
    deadline = time.monotonic() + longest_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
            return True
        except OSError:
            time.sleep(LOOK_S)
    return False
