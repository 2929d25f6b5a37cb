"""A Ray of our own that does not come up on a machine with too much to do: tried once more, then said in a sentence."""

import importlib

import pytest

from launcher.gate import NoRay, prepare_own_ray


def test_a_ray_that_is_too_slow_is_tried_twice_and_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_own_ray()
    connect = importlib.import_module("launcher.connect")
    tries = []

    def timed_out(**_: object) -> None:
        tries.append(1)
        raise Exception("The current node timed out during startup. This could happen because")  # as Ray's node.py does

    monkeypatch.setattr(connect.ray, "init", timed_out)
    with pytest.raises(NoRay, match="tried 2 times: The current node timed out"), connect.own_ray(1, 0, print):
        pass
    assert len(tries) == 2
