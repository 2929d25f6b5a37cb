"""Records whose bytes are as they were written and that are no example even so: no image, no label, a wrong label.

Only decoding finds them, deep inside of TensorFlow, which knows no names. Where such are skipped, each example is tried
(at about 0.1 ms), and PLACEHOLDER goes the same way in its place. Where one ends the job nothing is tried: of what was
read last, the record that does not decode is looked for when the job has failed.
"""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from conf.schema import Encoding
from data_pipeline.images import Stored, decode, image_of, parse
from data_pipeline.reader import PLACEHOLDER, RecordReader
from data_pipeline.records import CorruptRecord
from data_pipeline.records import decode as decode_record

Element = dict[str, tf.Tensor]
do_not_convert = tf.autograph.experimental.do_not_convert

_watched: "weakref.WeakSet[RecordReader]" = weakref.WeakSet()


def parsed(reader: RecordReader, records: tf.Tensor) -> Stored:
    """What serialized Examples hold; fails where a label is none of the classes."""
    stored = parse(records)
    tf.debugging.Assert(tf.reduce_all((stored.label >= 0) & (stored.label < reader.num_classes)), ["there is no class"])
    return stored


def watch(reader: RecordReader) -> None:
    """Let `named` look through what this reader read last."""
    _watched.add(reader)


def guarded(one: Callable[[Element], Any], reader: RecordReader) -> Callable[[Element], Any]:
    """`one`, which makes an example out of {"record", "example", ...}, for records that may be no examples.

    Those that fail are skipped within the reader's budget.
    """

    @do_not_convert
    def instead(example: Element) -> Any:
        (record,) = tf.numpy_function(partial(_skip, reader), [example["example"], example["record"]], [tf.string])
        return one(example | {"record": tf.ensure_shape(record, [])})

    @do_not_convert
    def tried(example: Element) -> Any:
        itself = tf.data.Dataset.from_tensors(example)
        # The second is made only where the first has failed.
        return itself.map(one).ignore_errors().concatenate(itself.map(instead)).take(1).get_single_element()

    return tried


def named(error: BaseException) -> BaseException:
    """CorruptRecord in place of TensorFlow's error, where a record that was read last is no example."""
    if not isinstance(error, tf.errors.InvalidArgumentError) or "CorruptRecord" in str(error):
        return error
    for reader in sorted(_watched, key=lambda reader: reader.last_read, reverse=True):
        try:
            for examples in reader.recent():
                for example, record in zip(examples.tolist(), reader.read(examples), strict=True):
                    why = fault_of(record, reader)
                    if why is not None:
                        reader.skip(example, why)
        except CorruptRecord as corrupt:
            return corrupt
    return error


def fault_of(record: bytes, reader: RecordReader) -> str | None:
    """What is wrong with a serialized Example, if anything is."""
    why = _wrong_label(record, reader.num_classes)
    if why is not None:
        return why
    try:
        stored = parse(tf.constant(record))
        height, width = decode(image_of(stored, reader.encoding), 0).shape[:2]
    except tf.errors.OpError:
        return _undecodable(reader)
    said = int(stored.height), int(stored.width)
    return None if said == (height, width) else f"its image is {height} x {width}, and it says {said[0]} x {said[1]}"


def _skip(reader: RecordReader, example: np.int64, record: bytes) -> bytes:
    reader.skip(int(example), _wrong_label(record, reader.num_classes) or _undecodable(reader))
    return PLACEHOLDER


def _undecodable(reader: RecordReader) -> str:
    if reader.encoding is Encoding.files:
        return "its image cannot be decoded"
    return "its pixels are not of the size it says"


def _wrong_label(record: bytes, num_classes: int) -> str | None:
    try:
        label = decode_record(record).label
    except ValueError as error:
        return f"it is no example: {error}"
    return None if 0 <= label < num_classes else f"its label is {label}, and there are {num_classes} classes"
