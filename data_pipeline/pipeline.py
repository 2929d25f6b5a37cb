"""Batches of a prepared set, as a tf.data.Dataset that starts at any step at no cost.

First the order: a few steps' worth of example numbers at a time. Then the pixels: a split whose decoded images fit into
`data.memory_bytes` is decoded once and gathered by number; of any other, exactly the bytes of a batch are read by
offset, and decoded in parallel. Both give the same pixels in the same places.

Elements (n examples of one replica, its first micro-batch first):
    image float32 [n, side, side, channels] 0..255 · label int32 [n] · mask float32 [n], 0 where a batch is filled up
    weight float32 [n] of the example · batch_examples float32 [], real examples in the whole global batch

A process that has begun to read should end by `os._exit`, as the worker does: TensorFlow goes on filling its buffers,
and a thread of its that waits for the interpreter while that shuts down waits for ever.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import tensorflow as tf

from conf.augment_rules import mixes
from conf.errors import BadSpec
from conf.schema import AugmentSpec, DataSpec, Order
from data_pipeline.augment.columns import num_draws
from data_pipeline.batches import BatchOrder, ChosenOrder, EvaluationOrder, TrainingOrder
from data_pipeline.kept import gathered, pixel_type
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape, Blocks, steps_per_epoch
from data_pipeline.oversampling import Oversampling
from data_pipeline.reader import RecordReader, Skipped, open_split
from data_pipeline.stored import NUM_CORES, Element, do_not_convert, num_prefetched
from data_pipeline.streamed import streamed

_ORDERED_AT_ONCE = 8192  # examples
_STEPS_AT_ONCE = 64


def training_dataset(
    manifest: Manifest,
    data: DataSpec,
    seed: int,
    shape: BatchShape,
    replicas: range,
    image_size: int,
    start_step: int = 0,
    tell: Callable[[Skipped], None] | None = None,
) -> tf.data.Dataset:
    """Endless elements from `start_step` on: that step's for each of `replicas`, then the next step's.

    `tell` hears of each corrupt record that is skipped, from another thread.
    """
    reader = open_split(manifest, "train", data, tell)
    refuse_odd_pairs(data, shape)
    order = training_order(reader, data, seed, shape, replicas)
    if not steps_per_epoch(order.num_places, shape.global_batch_size, data.remainder):
        law = f"there are only {order.num_places} training examples, less than one batch"
        raise BadSpec.of("trainer.global_batch_size", shape.global_batch_size, law, "less, or data.remainder=pad")
    return _dataset(order, start_step, reader, manifest, data, data.augment, image_size)


def training_order(
    reader: RecordReader, data: DataSpec, seed: int, shape: BatchShape, replicas: range
) -> TrainingOrder:
    """Which examples of the training split `replicas` get in which step."""
    blocks = _blocks(reader, data)
    return TrainingOrder(
        reader.num_examples,
        seed,
        shape,
        replicas,
        data.remainder,
        data.shuffle,
        num_draws(data.augment),
        blocks,
        _oversampling(reader, data, blocks),
    )


def evaluation_dataset(
    manifest: Manifest,
    split: str,
    data: DataSpec,
    shape: BatchShape,
    replicas: range,
    image_size: int,
    tell: Callable[[Skipped], None] | None = None,
) -> tf.data.Dataset:
    """Every example of a split once, in stored order; as many elements for every replica, the last filled up."""
    reader = open_split(manifest, split, data, tell)
    order = EvaluationOrder(reader.num_examples, shape, replicas)
    return _dataset(order, 0, reader, manifest, data, AugmentSpec(), image_size)


def chosen_dataset(
    manifest: Manifest, data: DataSpec, augment: AugmentSpec, order: ChosenOrder, image_size: int
) -> tf.data.Dataset:
    """Some training examples, and element e is what training sees of them in epoch e; read from the shards alone."""
    reader = open_split(manifest, "train", data)
    return _dataset(order, 0, reader, manifest, replace(data, memory_bytes=0), augment, image_size)


def decoded_bytes(num_examples: int, manifest: Manifest, data: DataSpec, image_size: int) -> int:
    """What so many decoded images of a set take in memory."""
    return int(num_examples * image_size**2 * data.channels * pixel_type(manifest, image_size).size)


def is_kept_in_memory(
    num_examples: int, manifest: Manifest, data: DataSpec, augment: AugmentSpec, image_size: int
) -> bool:
    """Whether a split of so many examples is decoded once and gathered, instead of decoded in each epoch."""
    return augment.crop_min_area >= 1 and decoded_bytes(num_examples, manifest, data, image_size) <= data.memory_bytes


def _blocks(reader: RecordReader, data: DataSpec) -> Blocks | None:
    """The block shuffle, where the job has one: decided by the job and the manifest, not by the host."""
    if not data.shuffle:
        return None
    streamed = not reader.is_near and reader.num_bytes > data.cache_bytes
    if data.order is Order.full and streamed:
        law = f"the training split takes up {reader.num_bytes} bytes, and data.cache_bytes={data.cache_bytes}"
        cure = f"data.cache_bytes={reader.num_bytes}, or data.order=blocks"
        raise BadSpec.of("data.order", data.order, law, cure)
    if data.order is Order.full or (data.order is Order.auto and not streamed):
        return None
    return Blocks([shard.num_examples for shard in reader.shards], reader.shard_bytes, data.cache_bytes // 2)


def _oversampling(reader: RecordReader, data: DataSpec, blocks: Blocks | None) -> Oversampling | None:
    if data.oversample is None:
        return None
    if blocks is not None:
        law = "a block shuffle reads each shard once, and examples that repeat come from anywhere"
        cure = f"data.order=full data.cache_bytes={reader.num_bytes}, or trainer.class_weights=balanced"
        raise BadSpec.of("data.oversample", data.oversample, law, cure)
    return Oversampling(reader.labels())


def refuse_odd_pairs(data: DataSpec, shape: BatchShape) -> None:
    """Raise BadSpec where MixUp or CutMix would find an example without a partner in its micro-batch."""
    if mixes(data.augment) and shape.micro_batch_size % 2:
        pieces = 2 * shape.global_batch_size // shape.micro_batch_size
        law = f"MixUp and CutMix take pairs, so it must be a multiple of {pieces}"
        below = shape.global_batch_size // pieces * pieces
        nearest = ", ".join(str(size) for size in (below, below + pieces) if size)
        raise BadSpec.of("trainer.global_batch_size", shape.global_batch_size, law, f"nearest: {nearest}")


def _dataset(
    order: BatchOrder,
    start_step: int,
    reader: RecordReader,
    manifest: Manifest,
    data: DataSpec,
    augment: AugmentSpec,
    image_size: int,
) -> tf.data.Dataset:
    with tf.device("CPU:0"):
        groups = _ordered(order, start_step)
        if is_kept_in_memory(reader.num_examples, manifest, data, augment, image_size):
            kept_as = pixel_type(manifest, image_size)
            elements = gathered(groups, reader, data, augment, image_size, kept_as, _options())
        else:
            if isinstance(order, TrainingOrder) and order.blocks:
                reader.follow(partial(order.groups_from, start_step))
            elements = streamed(groups.unbatch(), reader, manifest.images, data, augment, image_size)
            batch_bytes = 4 * order.shape.replica_batch_size * image_size**2 * data.channels
            elements = elements.prefetch(num_prefetched(batch_bytes))
        return elements.with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Images are copied into their batch while they are in the processor's cache.
    options.experimental_optimization.map_and_batch_fusion = True
    # Every number of calls and every buffer is given: there is nothing to tune, and the clocks of it cost a twentieth.
    options.autotune.enabled = False
    options.threading.max_intra_op_parallelism = 1
    options.threading.private_threadpool_size = NUM_CORES
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def _ordered(order: BatchOrder, start_step: int) -> tf.data.Dataset:
    """Some (step, replica)s an element: example numbers, mask, draws and the real examples of the global batch."""
    rows, size = len(order.replicas), order.shape.replica_batch_size
    at_once = int(np.clip(_ORDERED_AT_ONCE // (rows * size), 1, _STEPS_AT_ONCE))
    end = np.iinfo(np.int64).max if order.num_steps is None else order.num_steps

    @do_not_convert
    def batches(first: tf.Tensor) -> Element:
        call = partial(_call_order, order, at_once)
        types = [tf.int64, tf.float32, tf.float32, tf.float32]
        examples, mask, draws, batch_examples = tf.numpy_function(call, [first], types, stateful=False)
        examples.set_shape([None, size])
        mask.set_shape([None, size])
        draws.set_shape([None, size, None])
        batch_examples.set_shape([None])
        return {"example": examples, "mask": mask, "draws": draws, "batch_examples": batch_examples}

    return tf.data.Dataset.range(start_step, end, at_once).map(batches).prefetch(1)


def _call_order(order: BatchOrder, at_once: int, first: np.int64) -> tuple[np.ndarray, ...]:
    batches = order.batches(int(first), at_once)
    # TensorFlow crashes on an array of no bytes that comes from Python; nobody looks at a draw too many.
    return batches if order.num_draws else batches._replace(draws=batches.mask[..., None])
