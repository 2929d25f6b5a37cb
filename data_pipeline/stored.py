"""The stored examples behind example numbers: read and parsed a batch at a time, then worked on one by one.

What is done for many at once costs much less: a small operation of TensorFlow's takes microseconds, whatever it does.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipeline.damage import guarded, parsed, watch
from data_pipeline.images import StoredPixels
from data_pipeline.raw_records import read_raw
from data_pipeline.reader import PLACEHOLDER, RecordReader

Element = dict[str, Any]
#: Nothing here has Python branches for AutoGraph to convert, and looking for them takes most of a second.
do_not_convert = tf.autograph.experimental.do_not_convert

#: Images that are decoded at once.
NUM_CORES = len(os.sched_getaffinity(0))
_READS_AT_ONCE = 2
_PREFETCH_BYTES = 128 << 20
_MOST_PREFETCHED = 16


def num_prefetched(batch_bytes: int) -> int:
    """How many batches of this size are kept ready."""
    return int(np.clip(_PREFETCH_BYTES // batch_bytes, 2, _MOST_PREFETCHED))


def each_example(
    batches: tf.data.Dataset,
    reader: RecordReader,
    prepare: Callable[[Element], Element],
    finish: Callable[[Element], Any],
) -> tf.data.Dataset:
    """`finish(example)` of each example of each batch.

    A batch has "example", the numbers [n], and what else the caller wants; `prepare` gets it with "stored", a `Stored`
    of [n], and "whole" [n], 0 for a corrupt one. Where corrupt ones are skipped, `prepare` gets them one by one (n=1),
    so that one of them does not take the others with it.
    """

    @do_not_convert
    def read(batch: Element) -> Element:
        return batch | {"record": _read(reader, batch["example"])}

    @do_not_convert
    def alone(example: Element) -> Any:
        batch = _prepared(tf.nest.map_structure(lambda part: part[None], example), reader, prepare)
        return finish(tf.nest.map_structure(lambda part: part[0], batch))

    if reader.max_corrupt:
        return batches.map(read, _READS_AT_ONCE).unbatch().map(guarded(alone, reader), NUM_CORES)
    return _opened(batches, reader, prepare).unbatch().map(do_not_convert(finish), NUM_CORES)


def each_batch(
    batches: tf.data.Dataset,
    reader: RecordReader,
    prepare: Callable[[Element], Element],
    finish: Callable[[Element], Element],
    size: int,
) -> tf.data.Dataset:
    """`finish(batch)` of each batch of `size` whole, as `each_example` has it; the reader must not skip anything."""
    return _opened(batches, reader, prepare).map(do_not_convert(finish), _at_once(size))


def each_raw_batch(
    batches: tf.data.Dataset,
    reader: RecordReader,
    prepare: Callable[[Element], Element],
    finish: Callable[[Element], Element],
    size: int,
    channels: int,
) -> tf.data.Dataset:
    """The same of a set that stores pixels of so many channels; "stored" is a `StoredPixels`."""

    @do_not_convert
    def opened(batch: Element) -> Element:
        types = [tf.uint8, tf.int64, tf.int32, tf.float32, tf.int64, tf.int64]
        call = partial(read_raw, reader, channels)
        data, *columns = tf.numpy_function(call, [batch["example"]], types, stateful=False)
        columns = [tf.ensure_shape(column, batch["example"].shape) for column in columns]
        stored = StoredPixels(tf.ensure_shape(data, [None]), *columns)
        return prepare(batch | {"stored": stored, "whole": tf.ones_like(stored.weight)})

    return batches.map(opened, _READS_AT_ONCE).map(do_not_convert(finish), _at_once(size))


def _at_once(size: int) -> int:
    # Each batch keeps as many cores busy as it has images; another is begun before the last of them is done.
    return 1 + -(-NUM_CORES // size)


def _opened(batches: tf.data.Dataset, reader: RecordReader, prepare: Callable[[Element], Element]) -> tf.data.Dataset:
    """Batches read, parsed and prepared, where a corrupt record ends the job."""

    @do_not_convert
    def opened(batch: Element) -> Element:
        return _prepared(batch | {"record": _read(reader, batch["example"])}, reader, prepare)

    watch(reader)
    return batches.map(opened, _READS_AT_ONCE)


def _prepared(batch: Element, reader: RecordReader, prepare: Callable[[Element], Element]) -> Element:
    records = batch.pop("record")
    whole = tf.cast(records != PLACEHOLDER, tf.float32)
    return prepare(batch | {"stored": parsed(reader, records), "whole": whole})


def _read(reader: RecordReader, examples: tf.Tensor) -> tf.Tensor:
    """The serialized Examples, a string each."""
    (records,) = tf.numpy_function(partial(_call_read, reader), [examples], [tf.string], stateful=False)
    records.set_shape(examples.shape)
    return records


def _call_read(reader: RecordReader, examples: np.ndarray) -> np.ndarray:
    return np.array(reader.read(examples), dtype=object)
