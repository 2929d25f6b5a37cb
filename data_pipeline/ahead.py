"""A few threads that do what will be needed soon, and that nobody waits for at the end of the process.

An executor's threads are waited for when the interpreter ends, for minutes where a server does not answer.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

_Task = tuple[Future[None], Callable[[], None]]


class Ahead:
    """Calls functions in up to `most` daemon threads, in the order they are given."""

    def __init__(self, most: int):
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._most, self._started = most, 0

    def submit(self, function: Callable[[], None]) -> "Future[None]":
        """Call it soon; the answer tells how it went, and can be cancelled until it has begun."""
        future: Future[None] = Future()
        self._tasks.put((future, function))
        if self._started < self._most:
            self._started += 1
            # The thread knows the queue alone, so that it keeps nobody alive.
            threading.Thread(target=_work, args=(self._tasks,), daemon=True, name="ahead").start()
        return future

    def close(self) -> None:
        """Begin no more; what has begun goes on."""
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task[0].cancel()
        for _ in range(self._started):
            self._tasks.put(None)


def _work(tasks: "queue.SimpleQueue[_Task | None]") -> None:
    while _one(tasks.get()):
        pass


def _one(task: _Task | None) -> bool:
    """Do a task, whose parts are forgotten on return; False for the end."""
    if task is None:
        return False
    future, function = task
    if future.set_running_or_notify_cancel():
        try:
            function()
        except BaseException as error:  # whoever waits for it gets it
            future.set_exception(error)
        else:
            future.set_result(None)
    return True
