"""How many processes the kernel has killed for want of memory, as far as it says so to anybody."""

from pathlib import Path

#: The whole host's, and those of the control group that this process is in.
COUNTERS = (
    Path("/proc/vmstat"),
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def memory_kills(counters: tuple[Path, ...] = COUNTERS) -> int:
    """The sum of what the counters show. One that grew while a worker died by SIGKILL explains its death."""
    return sum(_count(path) for path in counters)


def _count(path: Path) -> int:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return sum(int(words[1]) for words in lines if len(words) == 2 and words[0] == "oom_kill" and words[1].isdigit())
