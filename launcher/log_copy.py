"""A worker's log that is written on this machine, and its copy in a far run directory, which can be read meanwhile.

An object of a far store cannot grow. So what is new goes up as a part of its own, now and then; when the worker has
ended the whole log follows as one object, and the parts are removed. Each byte goes up twice, whatever the log's size.
"""

import contextlib
import logging
import threading
import time
from pathlib import Path

from storage.run_dir import RunDir, log_part_name
from storage.store import StoreError

logger = logging.getLogger(__name__)
#: Between two parts: soon at the beginning, when a person may be watching; later, for logs that grow for days, more
#: seldom, so that there are a few hundred parts and not tens of thousands.
SHORTEST_S, LONGEST_S, SHARE = 5.0, 300.0, 0.02
PART_BYTES = 16 << 20


class LogCopy:
    """Keeps the copy of one log. Where the run directory is on this machine there is nothing to do."""

    def __init__(self, run_dir: RunDir, name: str, path: Path):
        self._run_dir, self._name, self._path = run_dir, name, path
        self._begun = time.monotonic()
        self._sent = self._parts = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if run_dir.store.local_path(name) is None:
            self._thread = threading.Thread(target=self._follow, name="log", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Put the whole log where the run directory is, and remove the parts."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        try:
            self._run_dir.publish(self._name)
            for number in range(self._parts):
                self._run_dir.store.delete(log_part_name(self._name, number))
        except StoreError as error:
            logger.warning("the log of a worker stays in parts: %s", error)

    def _follow(self) -> None:
        while not self._ended.wait(min(max(SHORTEST_S, SHARE * (time.monotonic() - self._begun)), LONGEST_S)):
            with contextlib.suppress(StoreError):  # what is not sent now is sent with what comes next
                self._send()

    def _send(self) -> None:
        """The lines that have come since the last time."""
        with self._path.open("rb") as log:
            log.seek(self._sent)
            new = log.read(PART_BYTES)
        new = new[: new.rfind(b"\n") + 1] or (new if len(new) == PART_BYTES else b"")
        if new:
            self._run_dir.store.put(log_part_name(self._name, self._parts), new)
            self._sent, self._parts = self._sent + len(new), self._parts + 1
