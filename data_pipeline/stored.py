"""The stored examples behind example numbers: read and parsed a batch at a time, then worked on one by one.

What is done for many at once costs much less: a small operation of TensorFlow's takes microseconds, whatever it does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipeline.damage import guarded, parsed, watch
from data_pipeline.reader import PLACEHOLDER, RecordReader

Element = dict[str, Any]
do_not_convert = tf.autograph.experimental.do_not_convert

_READS_AT_ONCE = 2


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
    def prepared(batch: Element) -> Element:
        records = batch.pop("record")
        whole = tf.cast(records != PLACEHOLDER, tf.float32)
        return prepare(batch | {"stored": parsed(reader, records), "whole": whole})

    @do_not_convert
    def alone(example: Element) -> Any:
        batch = prepared(tf.nest.map_structure(lambda part: part[None], example))
        return finish(tf.nest.map_structure(lambda part: part[0], batch))

    if reader.max_corrupt:
        return batches.map(read, _READS_AT_ONCE).unbatch().map(guarded(alone, reader), tf.data.AUTOTUNE)
    watch(reader)
    finished = do_not_convert(finish)
    return batches.map(lambda batch: prepared(read(batch)), _READS_AT_ONCE).unbatch().map(finished, tf.data.AUTOTUNE)


def _read(reader: RecordReader, examples: tf.Tensor) -> tf.Tensor:
    """The serialized Examples, a string each."""
    (records,) = tf.numpy_function(partial(_call_read, reader), [examples], [tf.string], stateful=False)
    records.set_shape(examples.shape)
    return records


def _call_read(reader: RecordReader, examples: np.ndarray) -> np.ndarray:
    return np.array(reader.read(examples), dtype=object)
