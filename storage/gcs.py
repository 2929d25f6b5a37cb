"""A store in Google Cloud Storage: gs://bucket/path.

Credentials are Google's application default ones (workload identity on GKE); STORAGE_EMULATOR_HOST is respected. Every
transfer is checked by size and crc32c (`gcs_transfers`), and begun again when it failed for a reason that may pass
(`gcs_retries`).
"""

import contextlib
import io
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from google.api_core.exceptions import NotFound, PreconditionFailed
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.storage import Blob, Client
from requests.adapters import HTTPAdapter

from storage.gcs_retries import CREDENTIALS_CURE, TIMEOUT_S, Retries
from storage.gcs_transfers import (
    SMALL_BYTES,
    BufferReader,
    Reader,
    download,
    get_range,
    measured,
    number_of,
    send,
    upload,
)
from storage.names import UNFINISHED, checked_name, checked_prefix, disk_error
from storage.store import KnownCrc, Stored, StoreError

DELETES_AT_ONCE = 8
#: Connections that are kept for the next request: several files at a time, each in several parts.
MOST_CONNECTIONS = 64


def open(url: str) -> "GcsStore":
    """The store below `gs://bucket/path`. Nothing is asked of the service yet."""
    bucket, _, path = url.removeprefix("gs://").partition("/")
    if not url.startswith("gs://") or not bucket:
        raise StoreError(f"{url}: no bucket in the URL - write gs://bucket/path")
    try:
        return GcsStore(Client(), bucket, path.strip("/"))
    except (DefaultCredentialsError, OSError) as error:
        raise StoreError(f"{url}: no Google Cloud credentials on this host - {CREDENTIALS_CURE}") from error


class GcsStore:
    """A path in a bucket. See `storage.store.Store`."""

    def __init__(self, client: Client, bucket: str, path: str):
        self.url = f"gs://{bucket}/{path}".rstrip("/")
        self._client = client
        if not getattr(client._http, "is_mtls", False):  # there the adapter knows the client's certificate
            for scheme in ("https://", "http://"):
                client._http.mount(scheme, HTTPAdapter(pool_maxsize=MOST_CONNECTIONS))
        weakref.finalize(self, client.close)
        self._bucket = client.bucket(bucket)
        self._path = f"{path}/" if path else ""
        self._persist = Retries(self._bucket, self.url).persist
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

    def put_chunks(self, name: str, chunks: Iterable[bytes], crc32c: KnownCrc | None = None) -> Stored:
        """Write what `chunks` makes under `name`: an upload may have to begin again, so it is made on the disk first.

        The file there has no name, so nothing is left of it however this process ends. It is held against `crc32c`.
        """
        checked_name(self.url, name)
        with tempfile.TemporaryFile(buffering=1 << 20) as file:
            for chunk in chunks:  # outside of the guard: what fails while it is made is not the disk's fault
                with self._writing(name):
                    file.write(chunk)
            with self._writing(name):
                file.flush()

            @contextlib.contextmanager
            def rewound() -> Iterator[IO[bytes]]:
                file.seek(0)
                yield file

            return self._upload(name, rewound, crc32c)

    @contextlib.contextmanager
    def together(self) -> Iterator["GcsStore"]:
        """One by one: each object has a request of its own here, and there is nothing to wait for in common."""
        yield self

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
                send(self._blob(name), io.BytesIO(data), len(data), if_generation_match=0)
            except PreconditionFailed:
                return tries > 1 and self.get(name) == data
            return True

        return self._persist("write", name, write, uploading=True)

    def get(self, name: str) -> bytes:
        """The object's bytes."""
        return self._persist("read", name, lambda: b"".join(self._chunks(name)))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only at the object's end."""
        if length <= 0:
            return b""
        return self._persist("read", name, lambda: get_range(self._blob(name), start, length))

    def get_file(self, name: str, path: Path) -> None:
        """Copy the object to the local file `path`, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")

        def fetch() -> None:
            with temporary.open("wb") as file:
                file.writelines(self._chunks(name))

        try:
            self._persist("read", name, fetch)
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
            return [Stored(blob.name[len(self._path) :], blob.size, number_of(blob.crc32c)) for blob in blobs]

        return sorted(self._persist("list", prefix, names), key=lambda stored: stored.name)

    def list_folders(self) -> Iterable[str]:
        """The names of the folders directly in the store, sorted; what lies in them is not looked at."""

        def names() -> list[str]:
            blobs = self._client.list_blobs(
                self._bucket, prefix=self._path, delimiter="/", timeout=TIMEOUT_S, retry=None,
                fields="prefixes,nextPageToken",
            )  # fmt: skip
            for _ in blobs:  # prefixes are known once the pages have been read
                pass
            return [prefix[len(self._path) :].rstrip("/") for prefix in blobs.prefixes]

        return sorted(self._persist("list", "", names))

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

    def sweep(self) -> None:
        """Nothing: an upload that was not finished is no object, and the service forgets it."""

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

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error("write", f"{tempfile.gettempdir()} (for {self.url}/{name})", error) from error

    def _chunks(self, name: str) -> Iterator[bytes]:
        return download(self._blob(name), lambda fetch: self._persist("read", name, fetch))

    def _upload(self, name: str, reader: Reader, known: KnownCrc | None = None) -> Stored:
        size, crc32c = measured(reader)
        if known is not None and known() != crc32c:
            raise StoreError(f"{self.url}/{name}: {tempfile.gettempdir()} gave back other bytes - look at that disk")
        self._persist("write", name, lambda: upload(self._blob(name), reader, size, crc32c), uploading=True)
        return Stored(name, size, crc32c)
