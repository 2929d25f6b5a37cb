"""The GCS store against faults of the network and of the service."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from google.auth.exceptions import DefaultCredentialsError

from storage import gcs
from storage.store import NotStored, StoreError, open_store
from tests.storage.fault_proxy import Fault, FaultProxy

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
        open_store(gcs_url).put_if_absent("marker", bytes(gcs.SMALL_BYTES + 1))


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
    with pytest.raises(StoreError, match=rf"{gcs_url}/x: cannot write - .*503.* - check the network"):
        open_store(gcs_url).put("x", b"")
    assert uploads(proxy) == gcs.TRIES


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
