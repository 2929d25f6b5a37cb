"""Where the folder of a Ray of our own is: below TMPDIR, unless that makes the paths of its sockets too long."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from launcher.folders import LONGEST_SOCKET, OWNER, SHORT, abandoned, signed

PREFIX = f"convoy-test-{os.getpid()}-"
BELOW = "some/socket"


@pytest.mark.parametrize(("too_long", "place"), [(0, "TMPDIR"), (1, SHORT)])
def test_a_socket_fits_however_long_tmpdir_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_long, place):
    length = LONGEST_SOCKET - len(f"/{PREFIX}12345678/{BELOW}") + too_long
    long = Path(f"/tmp/{'x' * (length - len('/tmp/'))}")
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    try:
        folder = Path(signed(PREFIX, BELOW))
        assert folder.parent == (long if place == "TMPDIR" else Path(SHORT))
        (folder / BELOW).parent.mkdir()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / BELOW))
        # Its owner lives; then it is dead, and whoever comes next finds it.
        assert list(abandoned(PREFIX, SHORT)) == []
        (folder / OWNER).write_text(f"{os.getpid()} 0")
        assert list(abandoned(PREFIX, SHORT)) == [folder]
        shutil.rmtree(folder)
    finally:
        shutil.rmtree(long)
