"""Batches of a set that fits into memory: each image is decoded once, and gathered by number."""

from collections.abc import Callable

import tensorflow as tf

from conf.augment_rules import mixes
from conf.schema import AugmentSpec, DataSpec
from data_pipeline.augment import augment_batch, change_pixels, changes_pixels
from data_pipeline.augment.mix import mix_neighbours
from data_pipeline.images import decode, image_of, resize
from data_pipeline.manifest import Manifest
from data_pipeline.reader import RecordReader
from data_pipeline.rows import ShiftedRows, padded_bytes
from data_pipeline.stored import NUM_CORES, Element, do_not_convert, each_example, num_prefetched

_LOADED_AT_ONCE = 512
#: Of images that one call gathers, and calls at once.
_BYTES_TOGETHER = 12 << 20
_MOST_GROUPS = 8


def pixel_type(manifest: Manifest, image_size: int) -> tf.DType:
    """How pixels are kept in memory: as they were stored, or computed where they change their size."""
    images = manifest.images
    return tf.uint8 if images.uniform and images.min_height == images.min_width == image_size else tf.float32


def gathered(
    groups: tf.data.Dataset,
    reader: RecordReader,
    data: DataSpec,
    augment: AugmentSpec,
    image_size: int,
    kept_as: tf.DType,
    options: tf.data.Options,
) -> tf.data.Dataset:
    """Elements from memory, a batch at a time, which for small images is several times faster than one by one.

    `groups` has some batches of example numbers an element: [batches, n]. Where batches are small, and little is done
    to them, several are gathered by one call and then told apart: what a call takes by itself is more than that.
    """
    pixels, labels, weights, whole = _load(reader, data.channels, image_size, kept_as, options)
    images = _images(pixels, augment, data.memory_bytes)

    @do_not_convert
    def element(batch: Element) -> Element:
        found = {
            "image": images(batch["example"], batch["draws"]),
            "label": tf.gather(labels, batch["example"]),
            "mask": batch["mask"] * tf.gather(whole, batch["example"]),
            "weight": tf.gather(weights, batch["example"]),
            "batch_examples": batch["batch_examples"],
        }
        return mix_neighbours(found, batch["draws"], augment) if mixes(augment) else found

    batch_bytes = 4 * groups.element_spec["example"].shape[1] * image_size**2 * data.channels
    together = _BYTES_TOGETHER // batch_bytes
    if together < 2 or mixes(augment) or changes_pixels(augment):
        return groups.unbatch().map(element, NUM_CORES).prefetch(num_prefetched(batch_bytes))
    groups = groups.rebatch(together).map(element, min(NUM_CORES, _MOST_GROUPS))
    return groups.flat_map(do_not_convert(tf.data.Dataset.from_tensor_slices))


def _images(pixels: tf.Tensor, augment: AugmentSpec, memory_bytes: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """What makes images [..., n] out of their numbers and draws: by rows, where that is worth it and fits."""
    shape = tuple(pixels.shape)
    shifts = augment.flip or augment.pad_crop
    if not shifts or padded_bytes(shape, pixels.dtype.size, augment) > memory_bytes:

        def moved(examples: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(draws, [-1, tf.shape(draws)[-1]])
            images = augment_batch(tf.gather(pixels, tf.reshape(examples, [-1])), flat, augment)
            return tf.ensure_shape(
                tf.reshape(images, [-1, *examples.shape[1:], *shape[1:]]), [*examples.shape, *shape[1:]]
            )

        return moved
    rows = ShiftedRows(pixels.numpy(), augment, memory_bytes)

    def shifted(examples: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        (images,) = tf.numpy_function(rows, [examples, draws], [tf.float32], stateful=False)
        images = tf.ensure_shape(images, [*examples.shape, *shape[1:]])
        return change_pixels(images, draws, augment) if changes_pixels(augment) else images

    return shifted


def _load(
    reader: RecordReader, channels: int, image_size: int, kept_as: tf.DType, options: tf.data.Options
) -> tuple[tf.Tensor, ...]:
    """Every image of the split at its size, with labels, weights, and 0 for those that are corrupt, else 1."""

    def as_it_is(batch: Element) -> Element:
        return batch

    def finish(example: Element) -> tuple[tf.Tensor, ...]:
        stored = example["stored"]
        pixels = decode(image_of(stored, reader.encoding), channels)
        # All have their size already, but for what takes the place of a corrupt one.
        if kept_as == tf.uint8 and not reader.max_corrupt:
            pixels = tf.ensure_shape(pixels, [image_size, image_size, channels])
        else:
            pixels = resize(pixels, image_size)
        return tf.cast(pixels, kept_as), stored.label, stored.weight, example["whole"]

    numbers = tf.data.Dataset.from_tensor_slices({"example": tf.range(reader.num_examples, dtype=tf.int64)})
    numbers = numbers.batch(_LOADED_AT_ONCE)
    loaded = each_example(numbers, reader, as_it_is, finish).batch(_LOADED_AT_ONCE)
    parts = list(loaded.with_options(options))
    return tuple(tf.concat(columns, 0) for columns in zip(*parts, strict=True))
