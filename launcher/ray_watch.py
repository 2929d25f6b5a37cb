"""Whether the servers of a Ray of our own still run: nothing comes back when one of them is gone.

Ray itself gives up a minute after its head is lost, by ending the driver; an agent that was to be made anew beside a
dead raylet is waited for until `cluster.start_timeout_s`. Seen here within a second, the workers can still save.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

LOOK_S = 0.5
#: So many looks in a row have to find a server suspended: a debugger may hold it for a moment.
FROZEN_LOOKS = 6
#: Servers by what their command line holds.
SERVERS = {"gcs_server": "Ray's head (gcs_server)", "raylet": "Ray's raylet"}


class RayWatch:
    """Looks after server processes, by pid and name, in a thread; calls `tell` once with a sentence."""

    def __init__(self, servers: Mapping[int, str], tell: Callable[[str], None]):
        self._servers, self._tell = dict(servers), tell
        self._frozen = dict.fromkeys(self._servers, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ray-watch", daemon=True)

    def __enter__(self) -> "RayWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            for pid, name in self._servers.items():
                state = process_state(pid)
                self._frozen[pid] = self._frozen[pid] + 1 if state in ("T", "t") else 0
                if state in ("", "Z", "X"):
                    self._tell(f"{name} died")
                    return
                if self._frozen[pid] >= FROZEN_LOOKS:
                    self._tell(f"{name} stands still: its process {pid} was suspended (SIGSTOP)")
                    return


def process_state(pid: int) -> str:
    """The kernel's letter for the state of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def servers_of(pids: list[int]) -> dict[int, str]:
    """Which of these processes are Ray's servers, by the program they run."""
    found = {}
    for pid in pids:
        try:
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except OSError:
            continue
        if name := SERVERS.get(program.rpartition("/")[2]):
            found[pid] = name
    return found
