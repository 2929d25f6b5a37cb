"""The GCS store against faults of the network and of the service."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.storage import Blob

from storage import gcs, gcs_retries, gcs_transfers
from storage.store import NotStored, StoreAway, StoreError, open_store
from tests.storage.fault_proxy import Fault, FaultProxy
from tests.storage.gcs_server import BUCKET, running_gcs_server

SMALL = b"some bytes" * 1000
LARGE = os.urandom(9 << 20)

UPLOAD_FAULTS = [
    ("small", Fault("status", "POST", "uploadType=multipart", uses=2)),
    ("small", Fault("status", "POST", "uploadType=multipart", status=429)),
    ("small", Fault("reset", "POST", "uploadType=multipart")),
    ("small", Fault("lose_reply", "POST", "uploadType=multipart")),
    ("small", Fault("flip_sent", "POST", "uploadType=multipart")),
    ("large", Fault("flip_sent", "PUT")),
    ("large", Fault("status", "POST", "uploadType=resumable")),
    ("large", Fault("status", "PUT", "uploadType=resumable|upload_id")),
    ("large", Fault("reset", "PUT")),
    ("large", Fault("lose_reply", "PUT")),
    ("large", Fault("status", "PUT", status=404)),  # the session was lost
    ("large", Fault("status", "PUT", status=410)),  # the session has ended
]


@pytest.mark.parametrize(("size", "fault"), UPLOAD_FAULTS, ids=lambda value: getattr(value, "kind", value))
def test_an_upload_survives(proxy: FaultProxy, gcs_url: str, tmp_path: Path, size: str, fault: Fault) -> None:
    """Whatever happens to a request, the object is whole in the end."""
    data = LARGE if size == "large" else SMALL
    source = tmp_path / "source"
    source.write_bytes(data)
    store = open_store(gcs_url)
    proxy.faults = [fault]
    stored = store.put_file("x", source)
    assert fault.uses == 0, "the fault was never met"
    assert stored.size == len(data)
    assert store.get("x") == data


@pytest.mark.parametrize(("size", "fault"), UPLOAD_FAULTS, ids=lambda value: getattr(value, "kind", value))
def test_chunks_are_made_once_whatever_happens_to_their_upload(
    proxy: FaultProxy, gcs_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, fault: Fault
) -> None:
    """What was made before a fault is not made again, and arrives; a killed writer would leave nothing on the disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data, made = (LARGE if size == "large" else SMALL), 0

    def chunks() -> Iterator[bytes]:
        nonlocal made
        for at in range(0, len(data), 100_000):
            made += 1
            yield data[at : at + 100_000]
            assert list(tmp_path.iterdir()) == []

    store = open_store(gcs_url)
    proxy.faults = [dataclasses.replace(fault, uses=1)]
    stored = store.put_chunks("x", chunks())
    assert proxy.faults[0].uses == 0, "the fault was never met"
    assert (stored.size, stored.crc32c) == (len(data), google_crc32c.value(data))
    assert made == -(-len(data) // 100_000)
    assert store.get("x") == data


def test_a_temporary_folder_that_changes_bytes_is_named(proxy: FaultProxy, gcs_url: str) -> None:
    """What is to be uploaded is held against the checksum that its maker knows, if it does."""
    store = open_store(gcs_url)
    with pytest.raises(StoreError, match=rf"{gcs_url}/x: {tempfile.gettempdir()} gave back other bytes"):
        store.put_chunks("x", [SMALL], lambda: google_crc32c.value(SMALL) ^ 1)
    assert not store.exists("x")


def test_an_upload_session_that_is_lost_every_time_ends_with_a_sentence(proxy: FaultProxy, gcs_url: str) -> None:
    """A lost session costs a try of the file's budget, in which each try begins a new session."""
    proxy.faults = [Fault("status", "PUT", status=404, uses=-1)]
    with pytest.raises(
        StoreError, match=rf"{gcs_url}/x: cannot write - the service lost the upload {gcs_retries.TRIES} times"
    ) as caught:
        open_store(gcs_url).put("x", LARGE)
    assert not isinstance(caught.value, NotStored)
    assert sum("POST" in seen and "uploadType=resumable" in seen for seen in proxy.seen) == gcs_retries.TRIES


def test_a_server_that_forgets_the_session_in_the_middle_of_an_upload(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two chunks and restarted, it knows no session any more: the file is sent anew, and whole."""
    monkeypatch.setattr(gcs_retries, "BACK_OFF_S", 0.1)
    monkeypatch.setattr(gcs_transfers, "UPLOAD_CHUNK_BYTES", 1 << 20)
    data = os.urandom(9 << 20)
    with contextlib.ExitStack() as first:
        proxy.upstream = first.enter_context(running_gcs_server(tmp_path)).removeprefix("http://")
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(open_store(f"gs://{BUCKET}/runs").put_buffers, "x", [data])
            while sum(seen.startswith("PUT") for seen in proxy.seen) < 3:
                assert not sent.done()
            first.close()
            with running_gcs_server(tmp_path) as url:
                proxy.upstream = url.removeprefix("http://")
                assert sent.result(60).crc32c == google_crc32c.value(data)
                assert open_store(f"gs://{BUCKET}/runs").get("x") == data
    assert sum("POST" in seen and "uploadType=resumable" in seen for seen in proxy.seen) >= 2


@pytest.mark.parametrize("kind", ["status", "reset", "cut", "flip"])
def test_a_large_object_comes_in_parts_side_by_side(
    proxy: FaultProxy, gcs_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A part that fails is fetched again and no other; a flipped bit is found by the checksum of the whole."""
    monkeypatch.setattr(gcs_transfers, "PART_BYTES", 1 << 20)
    store, num_parts = open_store(gcs_url), 9
    store.put("x", LARGE)
    for fetch in (lambda: store.get("x"), lambda: fetched_file(store.get_file, tmp_path / "x")):
        proxy.seen, proxy.faults = [], [Fault(kind, "GET", "alt=media", skip=4)]
        proxy.most_in_flight, proxy.company = 0, 3
        assert fetch() == LARGE
        assert proxy.faults[0].uses == 0, "the fault was never met"
        parts = sum("alt=media" in seen for seen in proxy.seen)
        # One more request finds the end: the object is a multiple of a part.
        assert parts == 2 * num_parts if kind == "flip" else parts == num_parts + 1
        assert proxy.most_in_flight >= 3
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


ENDS = """
import threading, time
from storage import gcs_transfers
from storage.store import open_store
gcs_transfers.PART_BYTES = 1 << 20
thread = threading.Thread(target=open_store({url!r}).get, args=["x"], daemon=True)
thread.start()
while threading.active_count() < 5:
    time.sleep(0.01)
"""


def test_a_process_ends_without_waiting_for_what_does_not_come(
    proxy: FaultProxy, gcs_url: str, repository: Path
) -> None:
    """The server sits on some parts for as long as this test lasts."""
    open_store(gcs_url).put("x", LARGE)
    proxy.faults = [Fault("stall", "GET", "alt=media", skip=1, uses=-1)]
    try:
        done = subprocess.run([sys.executable, "-c", ENDS.format(url=gcs_url)], cwd=repository, timeout=50)
        assert done.returncode == 0 and not proxy.released.is_set()
    finally:
        proxy.released.set()


def test_an_object_that_is_replaced_while_it_comes_is_the_new_one(
    proxy: FaultProxy, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two versions are never put together."""
    monkeypatch.setattr(gcs_transfers, "PART_BYTES", 1 << 20)
    store, other = open_store(gcs_url), os.urandom(5 << 20)
    store.put("x", LARGE)
    real = gcs_transfers.get_range

    def replacing(blob: Blob, start: int, length: int) -> bytes:
        if start == 3 << 20:
            monkeypatch.setattr(gcs_transfers, "get_range", real)
            open_store(gcs_url).put("x", other)
        return real(blob, start, length)

    monkeypatch.setattr(gcs_transfers, "get_range", replacing)
    assert store.get("x") == other


@pytest.mark.parametrize("kind", ["status", "reset", "cut", "flip"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_download_survives(proxy: FaultProxy, gcs_url: str, tmp_path: Path, kind: str, data: bytes) -> None:
    """A download that is refused, reset, cut or flipped is fetched again."""
    store = open_store(gcs_url)
    store.put("x", data)
    for fetch in (lambda: store.get("x"), lambda: fetched_file(store.get_file, tmp_path / "x")):
        fault = Fault(kind, "GET", "alt=media")
        proxy.faults = [fault]
        assert fetch() == data
        assert fault.uses == 0, "the fault was never met"


@pytest.mark.parametrize("kind", ["status", "reset", "cut"])
def test_a_range_survives(proxy: FaultProxy, gcs_url: str, kind: str) -> None:
    """A range that is refused, reset or cut is fetched again."""
    store = open_store(gcs_url)
    store.put("x", SMALL)
    proxy.faults = [Fault(kind, "GET", "alt=media")]
    assert store.get_range("x", 10, 500) == SMALL[10:510]
    assert proxy.faults[0].uses == 0, "the fault was never met"


def test_the_marker_whose_reply_was_lost_is_ours(proxy: FaultProxy, gcs_url: str) -> None:
    """The retry meets 412 on our own write; the bytes tell that it is ours."""
    proxy.faults = [Fault("lose_reply", "POST", "upload")]
    store = open_store(gcs_url)
    assert store.put_if_absent("marker", b"nonce 1")
    assert not store.put_if_absent("marker", b"nonce 1"), "there before the first try: not written by this call"


def test_the_marker_of_another_is_not_ours(proxy: FaultProxy, gcs_url: str) -> None:
    """A retry that meets another's marker has lost."""
    store = open_store(gcs_url)
    store.put("marker", b"nonce of another")
    proxy.faults = [Fault("reset", "POST", "upload")]
    assert not store.put_if_absent("marker", b"nonce 1")
    assert store.get("marker") == b"nonce of another"


def test_a_large_marker_is_refused(proxy: FaultProxy, gcs_url: str) -> None:
    """A precondition is only safe on an upload of one request."""
    with pytest.raises(StoreError, match="at most"):
        open_store(gcs_url).put_if_absent("marker", bytes(gcs_transfers.SMALL_BYTES + 1))


def test_a_file_that_never_comes_whole_is_not_there(proxy: FaultProxy, gcs_url: str, tmp_path: Path) -> None:
    """A download that is always flipped ends in an error, without a file."""
    store = open_store(gcs_url)
    store.put("x", SMALL)
    proxy.faults = [Fault("flip", "GET", "alt=media", uses=-1)]
    with pytest.raises(StoreError, match=r"/x: cannot read - DataCorruption"):
        store.get_file("x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_retries_have_an_end(proxy: FaultProxy, gcs_url: str) -> None:
    """A service that stays away is named with url, cause and cure."""
    proxy.faults = [Fault("status", "POST", "upload", uses=-1)]
    with pytest.raises(StoreAway, match=rf"{gcs_url}/x: cannot write - .*503.* - check the network"):
        open_store(gcs_url).put("x", b"")
    assert uploads(proxy) == gcs_retries.TRIES


def test_no_permission_is_said_at_once(proxy: FaultProxy, gcs_url: str) -> None:
    """403 is not retried, and the sentence says which role is missing."""
    proxy.faults = [Fault("status", "POST", "upload", status=403, uses=-1)]
    with pytest.raises(StoreError, match=r"no permission: .* - grant this account roles/storage\.objectAdmin"):
        open_store(gcs_url).put("x", b"")
    assert uploads(proxy) == 1


@pytest.mark.parametrize("use", [lambda s: s.check_writable(), lambda s: s.get("x"), lambda s: list(s.list())])
def test_a_missing_bucket_is_named(proxy: FaultProxy, use: Callable[[object], object]) -> None:
    """It is not mistaken for a missing object."""
    with pytest.raises(StoreError, match=r"there is no bucket no-such-bucket - make it with") as caught:
        use(open_store("gs://no-such-bucket/runs"))
    assert not isinstance(caught.value, NotStored)


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how to get some."""

    def no_credentials() -> None:
        raise DefaultCredentialsError("not found")

    monkeypatch.setattr(gcs, "Client", no_credentials)
    with pytest.raises(StoreError, match="no Google Cloud credentials on this host - run `gcloud auth"):
        open_store("gs://bucket/path")


@pytest.mark.parametrize("url", ["gs://", "gs:///path"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    """There is nowhere to write to."""
    with pytest.raises(StoreError, match="no bucket in the URL"):
        open_store(url)


def fetched_file(get_file: Callable[[str, Path], None], path: Path) -> bytes:
    """The object as a file, read back."""
    get_file("x", path)
    return path.read_bytes()


def uploads(proxy: FaultProxy) -> int:
    """How many uploads were tried."""
    return sum(request.startswith("POST /upload") for request in proxy.seen)
