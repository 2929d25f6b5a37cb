"""The gate between tf.data and Python, which is closed before the interpreter ends."""

import threading
import time

import pytest

from data_pipeline.python_calls import _Gate


def test_closing_waits_for_calls_and_then_refuses_them() -> None:
    gate, ended = _Gate(), threading.Event()

    def slow() -> str:
        time.sleep(0.3)
        ended.set()
        return "done"

    answers: list[str] = []
    caller = threading.Thread(target=lambda: answers.append(gate.call(slow, [])))
    caller.start()
    time.sleep(0.1)
    gate.close()
    assert ended.is_set()
    caller.join()
    assert answers == ["done"]
    with pytest.raises(StopIteration):
        gate.call(slow, [])


def test_an_unused_gate_closes_at_once() -> None:
    gate = _Gate()
    started = time.monotonic()
    gate.close()
    assert time.monotonic() - started < 0.04
