"""Our TFRecords and Examples against TensorFlow's own reading and writing."""

import struct
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.records import (
    ENCODED,
    FORMAT,
    HEADER_BYTES,
    HEIGHT,
    KEY,
    LABEL,
    WEIGHT,
    WIDTH,
    Record,
    decode,
    encode,
    frame,
)

RECORDS = st.builds(
    Record,
    encoded=st.binary(max_size=300),
    format=st.sampled_from(["jpeg", "png"]),
    height=st.integers(0, 2**40),
    width=st.integers(0, 2**40),
    label=st.integers(-(2**63), 2**63 - 1),
    key=st.text(max_size=40),
    weight=st.floats(0, 1e9, width=32),
)


@settings(max_examples=100, deadline=None)
@given(RECORDS)
def test_tensorflow_reads_what_we_write(record: Record) -> None:
    features = tf.train.Example.FromString(encode(record)).features.feature
    assert features[ENCODED].bytes_list.value[0] == record.encoded
    assert features[FORMAT].bytes_list.value[0].decode() == record.format
    assert features[HEIGHT].int64_list.value[0] == record.height
    assert features[WIDTH].int64_list.value[0] == record.width
    assert features[LABEL].int64_list.value[0] == record.label
    assert features[KEY].bytes_list.value[0].decode() == record.key
    assert (features[WEIGHT].float_list.value[0] if WEIGHT in features else 1.0) == record.weight


@settings(max_examples=100, deadline=None)
@given(RECORDS)
def test_we_read_what_tensorflow_writes(record: Record) -> None:
    def feature(**lists: object) -> tf.train.Feature:
        return tf.train.Feature(**lists)

    features = {
        ENCODED: feature(bytes_list=tf.train.BytesList(value=[record.encoded])),
        FORMAT: feature(bytes_list=tf.train.BytesList(value=[record.format.encode()])),
        HEIGHT: feature(int64_list=tf.train.Int64List(value=[record.height])),
        WIDTH: feature(int64_list=tf.train.Int64List(value=[record.width])),
        LABEL: feature(int64_list=tf.train.Int64List(value=[record.label])),
        KEY: feature(bytes_list=tf.train.BytesList(value=[record.key.encode()])),
        WEIGHT: feature(float_list=tf.train.FloatList(value=[record.weight])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    assert decode(example.SerializeToString()) == record
    assert decode(encode(record)) == record


def test_tensorflow_reads_our_frames(tmp_path: Path) -> None:
    examples = [b"", b"x", bytes(range(256)) * 300]
    path = tmp_path / "ours.tfrecord"
    path.write_bytes(b"".join(frame(example) for example in examples))
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == examples
    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
        for example in examples:
            writer.write(example)
    assert (tmp_path / "theirs.tfrecord").read_bytes() == path.read_bytes()
    assert struct.unpack("<Q", frame(b"abc")[:8]) == (3,) and frame(b"abc")[HEADER_BYTES:-4] == b"abc"


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_cut_example_is_refused(cut: int) -> None:
    example = encode(Record(b"image", "png", 1, 1, 3, "key"))
    with pytest.raises(ValueError, match=r"ends inside|no feature"):
        decode(example[:-cut])


def test_an_example_of_something_else_is_refused() -> None:
    features = tf.train.Features(feature={"x": tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))})
    with pytest.raises(ValueError, match=ENCODED):
        decode(tf.train.Example(features=features).SerializeToString())
