"""What is tried again on Google Cloud Storage, how often, and what is said when it cannot be done.

Each file has a budget of its own: TRIES tries, and between them a wait that doubles, up to LONGEST_WAIT_S, less a
random part so that many workers do not come back at once. Each part of a large download has such a budget too, so one
lost part does not cost the others.
"""

import http.client
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import requests
import urllib3
from google.api_core.exceptions import Forbidden, GoogleAPICallError, RetryError, Unauthorized
from google.auth.exceptions import RefreshError, TransportError
from google.cloud.storage import Bucket
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from storage.store import NotStored, StoreAway, StoreError

log = logging.getLogger(__name__)
Result = TypeVar("Result")

TRIES = 8  # over about half a minute
BACK_OFF_S = 0.5  # before the second try; doubles with every further one
LONGEST_WAIT_S = 16.0
TIMEOUT_S = (10.0, 60.0)  # to connect, without a byte

#: Within one try of an upload: a part of a large file is sent again without starting over. Not for long: a part whose
#: reply was lost may never be accepted again, and then the whole file is sent anew.
PART_RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=4.0).with_timeout(10.0)
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_SESSION_LOST = (http.client.NOT_FOUND, http.client.GONE)
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
CREDENTIALS_CURE = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS, or give the pod a "
    "workload-identity service account"
)


class Retries:
    """Does things to the objects of one bucket, as often as it takes and makes sense."""

    def __init__(self, bucket: Bucket, url: str):
        """`url` is where the names begin."""
        self._bucket, self._url = bucket, url

    def persist(self, what: str, name: str, action: Callable[[], Result], uploading: bool = False) -> Result:
        """Do it, again if it failed for a reason that may pass, and at last say why it cannot be done.

        While uploading, "not found" may mean that the server has forgotten the upload's session: then it is begun anew.
        """
        url, wait_s = f"{self._url}/{name}", BACK_OFF_S
        for last in [False] * (TRIES - 1) + [True]:
            try:
                return action()
            except (GoogleAPICallError, InvalidResponse, RefreshError, *_PASSING) as error:
                if last or not self._may_pass(error, uploading):
                    raise self._explained(what, url, error, uploading) from error
                log.warning("%s: cannot %s, trying again in %.1f s: %s", url, what, wait_s, _first_line(error))
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        raise AssertionError("not reached")

    def _may_pass(self, error: Exception, uploading: bool) -> bool:
        status = _status(error)
        if uploading and status in _SESSION_LOST:  # or there is no bucket
            return not self._bucket_is_missing()
        if status is not None:
            return status in _PASSING_STATUS
        return isinstance(error, _PASSING) and not isinstance(error, InvalidResponse)

    def _bucket_is_missing(self) -> bool:
        try:
            return not self._bucket.exists(timeout=TIMEOUT_S, retry=None)
        except (GoogleAPICallError, RefreshError, *_PASSING):  # may not look, which is no proof
            return False

    def _explained(self, what: str, url: str, error: Exception, uploading: bool) -> StoreError:
        status, cause = _status(error), _first_line(error)
        if isinstance(error, (Unauthorized, RefreshError)) or status == http.client.UNAUTHORIZED:
            return StoreError(f"{url}: cannot {what} - Google refused the credentials: {cause} - {CREDENTIALS_CURE}")
        if isinstance(error, Forbidden) or status == http.client.FORBIDDEN:
            cure = f"grant this account roles/storage.objectAdmin on gs://{self._bucket.name}"
            return StoreError(f"{url}: cannot {what} - no permission: {cause} - {cure}")
        if status == http.client.NOT_FOUND and self._bucket_is_missing():
            cure = f"make it with `gcloud storage buckets create gs://{self._bucket.name}` or mend storage.root"
            return StoreError(f"{url}: cannot {what} - there is no bucket {self._bucket.name} - {cure}")
        if uploading and status in _SESSION_LOST:
            cause = f"the service lost the upload {TRIES} times ({cause})"
        elif status == http.client.NOT_FOUND:
            return NotStored(f"{url}: cannot {what} - there is no such object - check the name")
        kind = StoreAway if self._may_pass(error, uploading) else StoreError
        return kind(f"{url}: cannot {what} - {cause} - check the network and the state of Cloud Storage")


def _status(error: Exception) -> int | None:
    if isinstance(error, InvalidResponse) and not isinstance(error, DataCorruption):
        return getattr(error.response, "status_code", None)
    return getattr(error, "code", None) if isinstance(error, GoogleAPICallError) else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
