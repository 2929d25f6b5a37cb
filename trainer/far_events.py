"""TensorBoard's event files in a far store, where an object cannot grow.

What is drawn is collected in memory, and goes up as an object of its own at each checkpoint, after PIECE_S seconds or
when it is PIECE_BYTES long: each byte once, by a thread of its own. The objects' names sort in the order in which they
were written, so that TensorBoard reads them, one after the other, as one curve.
"""

import io
import logging
import re
import secrets
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from storage.store import Store, StoreError

log = logging.getLogger(__name__)
PIECE_BYTES = 1 << 20
PIECE_S = 30.0
#: As TensorBoard's own writer names its files: a number that is the time, and something of one's own.
_NAME = re.compile(r".*events\.out\.tfevents\.(\d{10})\.[^/]*")


class FarEvents:
    """Like TensorBoard's EventFileWriter, for a folder in a store."""

    def __init__(self, store: Store, folder: str):
        self._store, self._folder = store, folder
        self._number = max((_number(stored.name) for stored in store.list(f"{folder}/")), default=0)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="curves")
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._coming: Future[None] | None = None
        self._piece = _Piece()

    def add_event(self, event: event_pb2.Event) -> None:
        """Draw; what has been drawn so far may begin to go up."""
        self._piece.add(event)
        if self._piece.is_due():
            self.flush()

    def flush(self) -> None:
        """Begin to send what was drawn. Returns at once; see `wait`."""
        if not self._piece.num_events:
            return
        self._number = max(self._number + 1, int(time.time()))
        name = f"{self._folder}/events.out.tfevents.{self._number:010d}.{secrets.token_hex(4)}"
        self._waiting.append((name, self._piece.data()))
        self._piece = _Piece()
        self._coming = self._pool.submit(self._send)

    def wait(self) -> None:
        """Wait until what was flushed is in the store. Raises StoreError if that did not succeed."""
        if self._coming is not None:
            self._coming.result()

    def close(self) -> None:
        """Send the rest and end."""
        try:
            self.flush()
            self.wait()
        finally:
            self._pool.shutdown()

    def _send(self) -> None:
        """Send in order; what could not be sent is sent before the next piece."""
        while self._waiting:
            name, data = self._waiting[0]
            try:
                self._store.put(name, data)
            except StoreError as error:
                log.warning("curves are not sent yet: %s", error)
                raise
            self._waiting.popleft()


class _Piece:
    """An event file in memory."""

    def __init__(self) -> None:
        self.num_events = -1  # not counting the first, which every file begins with
        self._begun = time.monotonic()
        self._bytes = io.BytesIO()
        self._records = RecordWriter(self._bytes)
        self.add(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, event: event_pb2.Event) -> None:
        """Append an event."""
        self._records.write(event.SerializeToString())
        self.num_events += 1

    def is_due(self) -> bool:
        """Whether it is long enough, or somebody may wait for it."""
        return self._bytes.tell() >= PIECE_BYTES or time.monotonic() - self._begun >= PIECE_S

    def data(self) -> bytes:
        """The whole file."""
        return self._bytes.getvalue()


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0
