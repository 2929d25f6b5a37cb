"""One object of Google Cloud Storage up or down, once: in parts, and held against the checksum of the whole.

A large object comes down as ranges, some at a time, which are put together in order; it goes up as one resumable
session. What is wrong is raised as DataCorruption, for `storage.gcs_retries` to decide.
"""

import base64
import http.client
import io
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import IO, Any

import google_crc32c
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.storage import Blob
from google.cloud.storage.exceptions import DataCorruption

from storage import gcs_retries

UPLOAD_CHUNK_BYTES = 32 << 20
#: Up to here an upload is one request, and only there a precondition can be trusted.
SMALL_BYTES = 8 << 20
#: A larger object comes down in parts of this size...
PART_BYTES = 8 << 20
#: ...so many at a time.
PARTS_AT_ONCE = 8

#: Opens what is uploaded, from its beginning.
Reader = Callable[[], AbstractContextManager[IO[bytes]]]
#: Does something about a part until it is done: `gcs_retries.Retries.persist` for the object at hand.
Persist = Callable[[Callable[[], bytes]], bytes]


def measured(reader: Reader) -> tuple[int, int]:
    """Size and crc32c of what is uploaded."""
    size = crc32c = 0
    with reader() as file:
        while chunk := file.read(1 << 20):
            size, crc32c = size + len(chunk), google_crc32c.extend(crc32c, chunk)
    return size, crc32c


def upload(blob: Blob, reader: Reader, size: int, crc32c: int) -> None:
    """Send it, and compare what the service says it has with what was meant."""
    with reader() as file:
        send(blob, file, size)
    if (blob.size, number_of(blob.crc32c)) != (size, crc32c):
        raise DataCorruption(None, f"sent {size} bytes with crc32c {crc32c}, stored {blob.size}, {blob.crc32c}")


def send(blob: Blob, file: Any, size: int, if_generation_match: int | None = None) -> None:
    """One upload; beyond SMALL_BYTES in chunks, of which a lost one is sent again."""
    blob.chunk_size = UPLOAD_CHUNK_BYTES
    blob.upload_from_file(
        file,
        size=size,
        timeout=gcs_retries.TIMEOUT_S,
        retry=gcs_retries.PART_RETRY if size > SMALL_BYTES else None,
        checksum="crc32c",
        content_type="application/octet-stream",
        if_generation_match=if_generation_match,
    )


def download(blob: Blob, persist: Persist) -> Iterator[bytes]:
    """The object's bytes in order. DataCorruption at the end when together they are not what is stored."""
    first = get_range(blob, 0, PART_BYTES)
    is_whole = len(first) < PART_BYTES
    if not is_whole or blob.crc32c is None:
        blob.reload(timeout=gcs_retries.TIMEOUT_S, retry=None)
    expected, size = number_of(blob.crc32c), len(first) if is_whole else int(blob.size)
    found, length = google_crc32c.value(first), len(first)
    yield first
    for part in _parts(blob, persist, length, size):
        found, length = google_crc32c.extend(found, part), length + len(part)
        yield part
    if (length, found) != (size, expected):
        raise DataCorruption(None, f"{length} bytes came with crc32c {found}, stored are {size} with {expected}")


def get_range(blob: Blob, start: int, length: int) -> bytes:
    """`length` bytes from `start`; fewer only at the object's end. One request."""
    try:
        return bytes(
            blob.download_as_bytes(
                start=start, end=start + length - 1, timeout=gcs_retries.TIMEOUT_S, retry=None, checksum=None
            )
        )
    except GoogleAPICallError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        raise


def number_of(crc32c: str | None) -> int | None:
    """A checksum as Google writes it, as a number."""
    return None if crc32c is None else int.from_bytes(base64.b64decode(crc32c), "big")


def _parts(blob: Blob, persist: Persist, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` to `end`: fetched side by side, given in order, no more than PARTS_AT_ONCE in memory."""

    def fetch(at: int) -> bytes:
        # A blob of its own: the library notes in it what the last reply said.
        own = blob.bucket.blob(blob.name)
        return persist(lambda: get_range(own, at, min(PART_BYTES, end - at)))

    coming: deque[Future[bytes]] = deque()
    for at in range(start, end, PART_BYTES):
        coming.append(_begun(partial(fetch, at)))
        if len(coming) == PARTS_AT_ONCE:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _begun(action: Callable[[], bytes]) -> Future[bytes]:
    """Its result, from a thread of its own.

    Not an executor's: those are waited for when the interpreter ends, for minutes where a server does not answer.
    """
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    return future


class BufferReader(io.RawIOBase):
    """Several buffers read as one file, without joining them."""

    def __init__(self, buffers: Sequence[bytes | memoryview]):
        self._views = [memoryview(buffer).cast("B") for buffer in buffers]
        self._place = 0

    def readable(self) -> bool:
        """True: it is there to be read."""
        return True

    def seekable(self) -> bool:
        """True: a transfer may begin again."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        end = sum(map(len, self._views))
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: end}[whence]
        return self._place

    def readinto(self, target: Any) -> int:
        """Fill the target from the buffer at the current place."""
        start = self._place
        for view in self._views:
            if start < len(view):
                piece = view[start : start + len(target)]
                target[: len(piece)] = piece
                self._place += len(piece)
                return len(piece)
            start -= len(view)
        return 0
