"""What this machine has, seen without Ray and without TensorFlow, so that a refusal takes no time."""

import os
import time
from pathlib import Path

from launcher.placement import Host


def this_machine(devices: Path = Path("/dev")) -> Host:
    """The cores this process may use and the GPUs it may see."""
    return Host("this machine", len(os.sched_getaffinity(0)), count_gpus(devices, os.environ))


def count_gpus(devices: Path, environ: "os._Environ[str] | dict[str, str]") -> int:
    """GPUs by their device files, as far as CUDA_VISIBLE_DEVICES shows them."""
    present = sum(1 for path in devices.glob("nvidia[0-9]*") if path.name[6:].isdigit())
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return present
    named = 0
    for name in shown.split(","):
        if name.strip() in ("", "-1"):  # CUDA stops reading at the first name it cannot use
            break
        named += 1
    return min(present, named)


def process_age_s() -> float:
    """How long ago this process was started, by the kernel; 0 where it does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
