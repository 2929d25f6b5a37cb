"""What a killed driver leaves of its standby server, the next one removes."""

import os
import tempfile
from pathlib import Path

import pytest

from launcher.folders import OWNER, abandoned, sign
from launcher.standby import PREFIX, HostStandby, standby_server, sweep


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def folder(temp: Path, name: str, owner: str | None = None) -> Path:
    made = temp / f"{PREFIX}{name}"
    made.mkdir()
    if owner is not None:
        (made / OWNER).write_text(owner)
    return made


def test_folders_of_the_dead_are_swept_and_no_others(temp):
    dead = folder(temp, "dead", f"{os.getpid()} 0")
    mine, unsigned, torn = folder(temp, "mine"), folder(temp, "unsigned"), folder(temp, "torn", "x")
    sign(mine)
    assert list(abandoned(PREFIX)) == [dead]
    sweep()
    assert set(temp.iterdir()) == {mine, unsigned, torn}


@pytest.mark.parametrize("kind", ["driver", "agent"])
def test_a_server_signs_its_folder_and_sweeps(temp, kind):
    dead = folder(temp, "dead", f"{os.getpid()} 0")
    if kind == "driver":
        with standby_server({}, "this") as server:
            assert Path(server.socket).with_name(OWNER).read_text().startswith(f"{os.getpid()} ")
            assert not dead.exists()
    else:
        host = HostStandby("key")
        server = host.open({})
        assert Path(server.socket).with_name(OWNER).read_text().startswith(f"{os.getpid()} ")
        assert not dead.exists()
        host.close()
    assert list(temp.iterdir()) == []
