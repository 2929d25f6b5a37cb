"""Temporary folders that name their owner, so that what a killed driver left is found and removed by the next one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launcher.lease import birth

OWNER = "owner"


def sign(folder: str | Path) -> None:
    """Write into the folder that it is this process's."""
    Path(folder, OWNER).write_text(f"{os.getpid()} {birth(os.getpid())}")


def abandoned(prefix: str) -> Iterator[Path]:
    """This user's temporary folders with the prefix, whose owners are dead."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, ValueError):
            pid, _, born = (folder / OWNER).read_text().partition(" ")
            if folder.stat().st_uid == os.getuid() and birth(int(pid)) != born:
                yield folder
