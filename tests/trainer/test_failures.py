"""What an exception is called, and what is said of it."""

import pytest
import tensorflow as tf

from data_pipeline.records import CorruptRecord
from storage.store import StoreAway, StoreError
from trainer.blow_ups import GaveUp, RolledBack
from trainer.checkpoint_writer import NotFinite
from trainer.failures import kind_of, sentence_of

WRAPPED = """{{function_node __wrapped__IteratorGetNext}} Error in user-defined function
CorruptRecord: a.tfrecord: corrupt record 3 at byte 90

Traceback"""
FULL = """{{function_node x}} BadSpec: the job has 1 problem
  data.cache_dir=/cache - the disk is full: x - free some space
Traceback"""
AWAY = """{{function_node x}} StoreError: gs://b/a.tfrecord: cannot read - 503 - check the network
Traceback"""
HEARTBEAT = """Graph execution error:

Detected at node while/CollectiveReduceV2 defined at:
  File "<frozen runpy>"
RPC: /tensorflow.CoordinationService/Heartbeat"""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (tf.errors.InvalidArgumentError(None, None, WRAPPED), "bad_data", "a.tfrecord: corrupt record 3 at byte 90"),
        (tf.errors.UnknownError(None, None, FULL), "bad_spec", "data.cache_dir=/cache - the disk is full"),
        (tf.errors.UnknownError(None, None, AWAY), "infrastructure", "gs://b/a.tfrecord: cannot read - 503"),
        (
            tf.errors.UnknownError(None, None, AWAY.replace("Error: ", "Away: ")),
            "infrastructure",
            "gs://b/a.tfrecord: ",
        ),
        (StoreAway("gs://b/x: cannot read"), "infrastructure", "gs://b/x: cannot read"),
        (CorruptRecord("b.tfrecord is cut off"), "bad_data", "b.tfrecord is cut off"),
        (tf.errors.DeadlineExceededError(None, None, HEARTBEAT), "infrastructure", "lost contact with another worker"),
        (StoreError("x: cannot write - No space left on device"), "disk_full", "No space left on device"),
        (OSError(28, "full"), "disk_full", "full"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), "out_of_memory", "OOM when allocating"),
        (GaveUp("blow-up in step 3"), "blow_up", "blow-up in step 3"),
        (NotFinite("step 3 is not saved"), "blow_up", "step 3 is not saved"),
        (RolledBack("blow-up in step 3"), "rolled_back", "blow-up in step 3"),
        (ValueError("two\nlines"), "user", "ValueError: two"),
    ],
)
def test_an_exception_has_a_kind_and_one_sentence(error, kind, words):
    assert kind_of(error) == kind
    assert words in sentence_of(error) and "\n" not in sentence_of(error)


def test_the_sentence_of_a_lost_peer_names_the_cause_not_the_place_in_the_graph():
    said = sentence_of(tf.errors.DeadlineExceededError(None, None, HEARTBEAT))
    assert "Heartbeat" in said and "runpy" not in said
