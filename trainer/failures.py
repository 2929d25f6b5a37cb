"""From an exception to a kind and one sentence: what the launcher decides by, and what a person reads."""

import errno
import re

import tensorflow as tf

from data_pipeline.records import CorruptRecord
from storage.store import StoreError
from trainer.blow_ups import GaveUp, RolledBack
from trainer.checkpoint_writer import NotFinite

_LOST_PEER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
#: What an exception from inside a tf.data function looks like once TensorFlow has wrapped it.
_CORRUPT = re.compile(r"CorruptRecord: (.+)")
_FROM_STORE = re.compile(r"\b(?:StoreError|StoreAway|NotStored): (.+)")
_BAD_SPEC = re.compile(r"\bBadSpec: the job has \d+ problems?\s+(.+)")
_NO_SPACE = "No space left on device"


def kind_of(error: BaseException) -> str:
    """The kind of a failure: one of launcher/recovery.py's, as far as the error tells."""
    if isinstance(error, RolledBack):
        return "rolled_back"
    if isinstance(error, GaveUp | NotFinite):
        return "blow_up"
    if isinstance(error, CorruptRecord | tf.errors.DataLossError) or _CORRUPT.search(str(error)):
        return "bad_data"
    if _BAD_SPEC.search(str(error)):
        return "bad_spec"
    if _NO_SPACE in str(error) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return "disk_full"
    if isinstance(error, tf.errors.ResourceExhaustedError | MemoryError):
        return "out_of_memory"
    if _FROM_STORE.search(str(error)):
        return "infrastructure"
    if isinstance(error, (*_LOST_PEER, StoreError, OSError, tf.errors.InternalError)):
        return "infrastructure"
    return "user"


def sentence_of(error: BaseException) -> str:
    """What is worth saying of it, in one line; the log has the rest."""
    for wrapped in (_CORRUPT, _BAD_SPEC, _FROM_STORE):
        found = wrapped.search(str(error))
        if found:
            return found[1].strip()
    if isinstance(error, CorruptRecord | StoreError | RolledBack | GaveUp | NotFinite):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if isinstance(error, _LOST_PEER):
        return f"lost contact with another worker ({type(error).__name__}: {_cause(lines)})"
    return f"{type(error).__name__}: {_cause(lines) if isinstance(error, tf.errors.OpError) else lines[0]}"


def _cause(lines: list[str]) -> str:
    """The line of TensorFlow's many that says what happened: the first behind the place in the graph."""
    telling = [line for line in lines if not line.startswith(("Detected at", "File ", "Graph execution", "[["))]
    return next((line for line in telling if not line.startswith("{{function_node")), lines[0])[:300]
