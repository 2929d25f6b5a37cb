"""Records whose bytes are as they were written and that are no example even so: no image, no label, a wrong label.

Only decoding finds them, deep inside of TensorFlow, which knows no names. Where such are skipped, each example is tried
(at about 0.1 ms), and PLACEHOLDER goes the same way in its place. Where one ends the job nothing is tried: of what was
read last, the record that does not decode is looked for when the job has failed.
"""

import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from conf.schema import Encoding
from data_pipeline.images import decode, parse
from data_pipeline.reader import PLACEHOLDER, RecordReader
from data_pipeline.records import CorruptRecord
from data_pipeline.records import decode as decode_record

Element = dict[str, tf.Tensor]
do_not_convert = tf.autograph.experimental.do_not_convert

_watched: "weakref.WeakSet[RecordReader]" = weakref.WeakSet()


def parsed(reader: RecordReader, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(the stored image, label, weight) of a serialized Example; fails where the label is none of the classes."""
    image, label, weight = parse(record, reader.encoding)
    tf.debugging.Assert((label >= 0) & (label < reader.num_classes), ["there is no class", label])
    return image, label, weight


def guarded(one: Callable[[Element], Element], reader: RecordReader) -> Callable[[Element], Element]:
    """`one`, which makes an example out of {"record", "example", ...}, for records that may be no examples.

    Those that fail are skipped within the reader's budget; without a budget they can be named afterwards.
    """
    if not reader.max_corrupt:
        _watched.add(reader)
        return one

    @do_not_convert
    def instead(example: Element) -> Element:
        (record,) = tf.numpy_function(partial(_skip, reader), [example["example"], example["record"]], [tf.string])
        return one(example | {"record": tf.ensure_shape(record, [])})

    @do_not_convert
    def tried(example: Element) -> Element:
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
        decode(parse(tf.constant(record), reader.encoding)[0], 0)
    except tf.errors.OpError:
        return _undecodable(reader)
    return None


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
