"""Temporary folders that name their owner, so that what a killed driver left is found and removed by the next one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launcher.lease import birth

OWNER = "owner"
#: Bytes of a socket's path: what the kernel takes.
LONGEST_SOCKET = 107
#: Where there is a short path, however long that of TMPDIR is.
SHORT = "/tmp"


def signed(prefix: str, below: str) -> str:
    """A new folder of this process, into which a socket fits as `below`: in SHORT where TMPDIR is too long for that."""
    place = tempfile.gettempdir()
    name = f"{place}/{prefix}{8 * 'x'}/{below}"
    folder = tempfile.mkdtemp(prefix=prefix, dir=place if len(os.fsencode(name)) <= LONGEST_SOCKET else SHORT)
    sign(folder)
    return folder


def sign(folder: str | Path) -> None:
    """Write into the folder that it is this process's."""
    Path(folder, OWNER).write_text(f"{os.getpid()} {birth(os.getpid())}")


def abandoned(prefix: str, *elsewhere: str) -> Iterator[Path]:
    """This user's temporary folders with the prefix, there and `elsewhere`, whose owners are dead."""
    places = dict.fromkeys((tempfile.gettempdir(), *elsewhere))
    for folder in (each for place in places for each in Path(place).glob(f"{prefix}*")):
        with contextlib.suppress(OSError, ValueError):
            pid, _, born = (folder / OWNER).read_text().partition(" ")
            if folder.stat().st_uid == os.getuid() and birth(int(pid)) != born:
                yield folder
