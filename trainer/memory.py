"""The host's memory: what this process takes up, what may be taken, and the end of a process that takes too much."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

#: How often a process looks at what it takes up.
LOOK_EVERY_S = 0.02
#: The exit code of a process that was to find out whether something fits, where it does not.
EXHAUSTED = 9
#: Of a control group, in versions 2 and 1: its limit, and what it uses.
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
MEMINFO = Path("/proc/meminfo")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What this process takes up now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def available_bytes(
    meminfo: Path = MEMINFO, control_groups: tuple[tuple[Path, Path], ...] = CONTROL_GROUPS
) -> int | None:
    """What processes of this host, in this control group, may still take; None where nobody says it."""
    found = [_available_of_host(meminfo), *(_left(*paths) for paths in control_groups)]
    return min((left for left in found if left is not None), default=None)


def _available_of_host(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _left(limit: Path, used: Path) -> int | None:
    try:
        return max(int(limit.read_text()) - int(used.read_text()), 0)  # "max" is no number: there is no limit
    except (OSError, ValueError):
        return None


def watch(limit_bytes: int, exceeded: Callable[[int], None]) -> None:
    """Call `exceeded`, from a thread, as soon as this process takes up more than `limit_bytes`; with how much."""

    def look() -> None:
        while (taken := resident_bytes()) <= limit_bytes:
            time.sleep(LOOK_EVERY_S)
        exceeded(taken)

    threading.Thread(target=look, daemon=True, name="memory").start()
