"""Calls from tf.data into Python that cannot keep a process from ending.

TensorFlow's threads go on filling their buffers while the interpreter shuts down; one that then waits for the
interpreter waits for ever. So at exit the calls are refused first, and the process ends when none is under way.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_QUIET_S = 0.05
_DEADLINE_S = 2.0


class _Gate:
    """Counts the calls that are under way, and lets none in once it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._closed = False
        self._last_call = 0.0
        atexit.register(self.close)

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        with self._lock:
            self._last_call = time.monotonic()
            if self._closed:
                raise StopIteration  # the one exception that TensorFlow does not log
            self._running += 1
        try:
            return function(*arguments)
        finally:
            with self._lock:
                self._running -= 1

    def close(self) -> None:
        """Refuse further calls and wait until the buffers behind them are full of refusals."""
        with self._lock:
            self._closed = True
            if not self._last_call:
                return
        deadline = time.monotonic() + _DEADLINE_S
        while time.monotonic() < deadline:
            time.sleep(_QUIET_S)
            with self._lock:
                if not self._running and time.monotonic() - self._last_call >= _QUIET_S:
                    return


_gate = _Gate()


def python_call(
    function: Callable[..., Any], inputs: Sequence[tf.Tensor], types: Sequence[tf.DType]
) -> list[tf.Tensor]:
    """`tf.numpy_function` for a pure function, behind the gate."""
    return tf.numpy_function(lambda *arguments: _gate.call(function, arguments), inputs, types, stateful=False)
