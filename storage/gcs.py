"""A store in Google Cloud Storage: gs://bucket/path.

Credentials are Google's application default ones (workload identity on GKE); STORAGE_EMULATOR_HOST is respected. Every
transfer is checked by size and crc32c, and begun again as a whole when it failed for a reason that may pass.
"""

import base64
import contextlib
import http.client
import io
import logging
import os
import random
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import google_crc32c
import requests
import urllib3
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
    Unauthorized,
)
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.cloud.storage import Blob, Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from storage.names import UNFINISHED, checked_name, checked_prefix, disk_error
from storage.store import NotStored, Stored, StoreError

log = logging.getLogger(__name__)
Result = TypeVar("Result")

TRIES = 6
BACK_OFF_S = 0.5  # doubles with every try, up to 16 s, less a random part
TIMEOUT_S = (10.0, 60.0)  # to connect, without a byte
UPLOAD_CHUNK_BYTES = 32 << 20
DELETES_AT_ONCE = 8
#: Up to here an upload is one request, and only there a precondition can be trusted.
SMALL_BYTES = 8 << 20

#: Within one try: a part of a large file is sent again without starting over. Not for long: a part whose reply was
#: lost may never be accepted again, and then the whole file is sent anew.
PART_RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=4.0).with_timeout(10.0)
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING = (
    DataCorruption,
    RetryError,
    TransportError,
    ConnectionError,
    TimeoutError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
)
_CREDENTIALS_CURE = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS, or give the pod a "
    "workload-identity service account"
)


def open(url: str) -> "GcsStore":
    """The store below `gs://bucket/path`. Nothing is asked of the service yet."""
    bucket, _, path = url.removeprefix("gs://").partition("/")
    if not url.startswith("gs://") or not bucket:
        raise StoreError(f"{url}: no bucket in the URL - write gs://bucket/path")
    try:
        return GcsStore(Client(), bucket, path.strip("/"))
    except (DefaultCredentialsError, OSError) as error:
        raise StoreError(f"{url}: no Google Cloud credentials on this host - {_CREDENTIALS_CURE}") from error


class GcsStore:
    """A path in a bucket. See `storage.store.Store`."""

    def __init__(self, client: Client, bucket: str, path: str):
        self.url = f"gs://{bucket}/{path}".rstrip("/")
        self._client = client
        weakref.finalize(self, client.close)
        self._bucket = client.bucket(bucket)
        self._path = f"{path}/" if path else ""
        if path:
            checked_name(self.url, path)

    def put(self, name: str, data: bytes) -> None:
        """Write `data` under `name`, replacing what was there."""
        self.put_buffers(name, [data])

    def put_buffers(self, name: str, buffers: Sequence[bytes | memoryview]) -> Stored:
        """Write the buffers one after the other under `name`, straight from memory."""
        return self._upload(name, lambda: io.BufferedReader(BufferReader(buffers), 1 << 20))

    def put_file(self, name: str, path: Path) -> Stored:
        """Copy the local file `path` to `name`."""
        try:
            return self._upload(name, lambda: path.open("rb"))
        except FileNotFoundError as error:
            raise disk_error("read", str(path), error) from error

    def put_chunks(self, name: str, chunks: Iterable[bytes]) -> Stored:
        """Write what `chunks` makes under `name`, from a local file: an upload may have to begin again."""
        with TemporaryDirectory(prefix="convoy-") as folder:
            path = Path(folder, "whole")
            with path.open("wb", buffering=1 << 20) as file:
                file.writelines(chunks)
            return self.put_file(name, path)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write `data` unless `name` exists; say whether this call wrote it. `data` should hold a nonce.

        When a reply was lost, the next try may meet what the lost one wrote: then the contents decide.
        """
        if len(data) > SMALL_BYTES:
            raise StoreError(f"{self.url}/{name}: {len(data)} bytes - put_if_absent takes at most {SMALL_BYTES}")
        tries = 0

        def write() -> bool:
            nonlocal tries
            tries += 1
            try:
                self._send(self._blob(name), io.BytesIO(data), len(data), if_generation_match=0)
            except PreconditionFailed:
                return tries > 1 and self.get(name) == data
            return True

        return self._persist("write", name, write, uploading=True)

    def get(self, name: str) -> bytes:
        """The object's bytes."""
        return self._persist("read", name, lambda: self._download(name).getvalue())

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the object's end."""
        if length <= 0:
            return b""

        def read() -> bytes:
            try:
                return self._blob(name).download_as_bytes(
                    start=start, end=start + length - 1, timeout=TIMEOUT_S, retry=PART_RETRY, checksum=None
                )
            except GoogleAPICallError as error:
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return b""
                raise

        return self._persist("read", name, read)

    def get_file(self, name: str, path: Path) -> None:
        """Copy the object to the local file `path`, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
        try:
            self._persist("read", name, lambda: self._download_file(name, temporary))
            os.replace(temporary, path)
        except OSError as error:
            raise disk_error("write", str(path), error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterable[Stored]:
        """All objects whose name starts with `prefix`, sorted by name."""
        checked_prefix(self.url, prefix)

        def names() -> list[Stored]:
            blobs = self._client.list_blobs(
                self._bucket, prefix=self._path + prefix, timeout=TIMEOUT_S, retry=None,
                fields="items(name,size,crc32c),nextPageToken",
            )  # fmt: skip
            return [Stored(blob.name[len(self._path) :], blob.size, _number(blob.crc32c)) for blob in blobs]

        return sorted(self._persist("list", prefix, names), key=lambda stored: stored.name)

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return self._persist("look for", name, lambda: self._blob(name).exists(timeout=TIMEOUT_S, retry=None))

    def delete(self, name: str) -> None:
        """Remove the object; no error when it is gone already."""

        def remove() -> None:
            with contextlib.suppress(NotFound):
                self._blob(name).delete(timeout=TIMEOUT_S, retry=None)

        self._persist("delete", name, remove)

    def delete_folder(self, name: str) -> None:
        """Remove every object below `name/`."""
        names = [stored.name for stored in self.list(f"{checked_name(self.url, name)}/")]
        with ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
            for _ in pool.map(self.delete, names):
                pass

    def local_path(self, name: str) -> Path | None:
        """None: the objects are far away."""
        checked_name(self.url, name)
        return None

    def check_writable(self) -> None:
        """Write, read back and remove a small object; raise StoreError with the cause if that cannot be done."""
        name, data = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
        if not self.put_if_absent(name, data) or self.get(name) != data:
            raise StoreError(f"{self.url}: what was written does not read back - look at the bucket")
        self.delete(name)

    def _blob(self, name: str) -> Blob:
        return self._bucket.blob(self._path + checked_name(self.url, name))

    def _upload(self, name: str, reader: Callable[[], io.BufferedReader]) -> Stored:
        size, crc32c = _measure(reader)

        def send() -> None:
            blob = self._blob(name)
            with reader() as file:
                self._send(blob, file, size)
            if (blob.size, _number(blob.crc32c)) != (size, crc32c):
                raise DataCorruption(None, f"sent {size} bytes with crc32c {crc32c}, stored {blob.size}, {blob.crc32c}")

        self._persist("write", name, send, uploading=True)
        return Stored(name, size, crc32c)

    def _send(self, blob: Blob, file: Any, size: int, if_generation_match: int | None = None) -> None:
        blob.chunk_size = UPLOAD_CHUNK_BYTES
        blob.upload_from_file(
            file,
            size=size,
            timeout=TIMEOUT_S,
            retry=PART_RETRY if size > SMALL_BYTES else None,
            checksum="crc32c",
            content_type="application/octet-stream",
            if_generation_match=if_generation_match,
        )

    def _download(self, name: str, into: Any = None) -> Any:
        """Download and check what came against the checksum of the whole object."""
        blob, target = self._blob(name), io.BytesIO() if into is None else into
        blob.download_to_file(target, timeout=TIMEOUT_S, retry=PART_RETRY, checksum="crc32c")
        return target

    def _download_file(self, name: str, path: Path) -> None:
        with path.open("wb") as file:
            self._download(name, file)

    def _persist(self, what: str, name: str, action: Callable[[], Result], uploading: bool = False) -> Result:
        """Do it, again if it failed for a reason that may pass, and at last say why it cannot be done."""
        url, wait_s = f"{self.url}/{name}", BACK_OFF_S
        for last in [False] * (TRIES - 1) + [True]:
            try:
                return action()
            except (GoogleAPICallError, InvalidResponse, RefreshError, *_PASSING) as error:
                if last or not self._may_pass(error, uploading):
                    raise self._explained(what, url, error) from error
                log.warning("%s: cannot %s, trying again in %.1f s: %s", url, what, wait_s, _first_line(error))
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, 16.0)
        raise AssertionError("not reached")

    def _may_pass(self, error: Exception, uploading: bool) -> bool:
        status = _status(error)
        if uploading and status in (http.client.NOT_FOUND, http.client.GONE):  # session lost, or there is no bucket
            return not self._bucket_is_missing()
        if status is not None:
            return status in _PASSING_STATUS
        return isinstance(error, _PASSING) and not isinstance(error, InvalidResponse)

    def _bucket_is_missing(self) -> bool:
        try:
            return not self._bucket.exists(timeout=TIMEOUT_S, retry=None)
        except (GoogleAPICallError, RefreshError, *_PASSING):  # may not look, which is no proof
            return False

    def _explained(self, what: str, url: str, error: Exception) -> StoreError:
        status, cause = _status(error), _first_line(error)
        if isinstance(error, (Unauthorized, RefreshError)) or status == http.client.UNAUTHORIZED:
            return StoreError(f"{url}: cannot {what} - Google refused the credentials: {cause} - {_CREDENTIALS_CURE}")
        if isinstance(error, Forbidden) or status == http.client.FORBIDDEN:
            cure = f"grant this account roles/storage.objectAdmin on gs://{self._bucket.name}"
            return StoreError(f"{url}: cannot {what} - no permission: {cause} - {cure}")
        if status == http.client.NOT_FOUND and self._bucket_is_missing():
            cure = f"make it with `gcloud storage buckets create gs://{self._bucket.name}` or mend storage.root"
            return StoreError(f"{url}: cannot {what} - there is no bucket {self._bucket.name} - {cure}")
        if status == http.client.NOT_FOUND:
            return NotStored(f"{url}: cannot {what} - there is no such object - check the name")
        return StoreError(f"{url}: cannot {what} - {cause} - check the network and the state of Cloud Storage")


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


def _measure(reader: Callable[[], io.BufferedReader]) -> tuple[int, int]:
    size = crc32c = 0
    with reader() as file:
        while chunk := file.read(1 << 20):
            size, crc32c = size + len(chunk), google_crc32c.extend(crc32c, chunk)
    return size, crc32c


def _number(crc32c: str | None) -> int | None:
    return None if crc32c is None else int.from_bytes(base64.b64decode(crc32c), "big")


def _status(error: Exception) -> int | None:
    if isinstance(error, InvalidResponse) and not isinstance(error, DataCorruption):
        return getattr(error.response, "status_code", None)
    return getattr(error, "code", None) if isinstance(error, GoogleAPICallError) else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
