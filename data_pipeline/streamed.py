"""Batches of a set that does not fit into memory: each image is decoded when it is wanted."""

from collections.abc import Callable

import tensorflow as tf

from conf.augment_rules import mixes
from conf.schema import AugmentSpec, DataSpec, Encoding
from data_pipeline.at_once import BatchImages, can_be_at_once
from data_pipeline.augment import augment_image
from data_pipeline.augment.columns import is_active
from data_pipeline.augment.crop import crop_windows
from data_pipeline.augment.mix import mix_neighbours
from data_pipeline.images import decode, decode_crop, image_of, resize
from data_pipeline.manifest import ImageSizes
from data_pipeline.reader import RecordReader
from data_pipeline.stored import NUM_CORES, Element, do_not_convert, each_batch, each_example, each_raw_batch


def streamed(
    batches: tf.data.Dataset,
    reader: RecordReader,
    sizes: ImageSizes,
    data: DataSpec,
    augment: AugmentSpec,
    image_size: int,
) -> tf.data.Dataset:
    """Elements from the shards: the bytes of each batch are read by offset, images are decoded in parallel.

    `sizes` are those of the images of the set.
    """

    def prepare(batch: Element) -> Element:
        stored, crops = batch["stored"], augment.crop_min_area < 1
        window = {"window": crop_windows(stored.height, stored.width, batch["draws"], augment)} if crops else {}
        return batch | {"mask": batch["mask"] * batch["whole"]} | window

    if reader.max_corrupt or mixes(augment) or not can_be_at_once(augment):
        return _one_by_one(batches, reader, prepare, data, augment, image_size)
    images = BatchImages(reader.encoding, sizes, data.channels, image_size)

    def finish(batch: Element) -> Element:
        stored = batch["stored"]
        image = images(stored, batch.get("window"), batch["draws"] if augment.flip else None)
        kept = {name: batch[name] for name in ("mask", "batch_examples")}
        return {"image": image, "label": stored.label, "weight": stored.weight} | kept

    size, channels = batches.element_spec["example"].shape[0], data.channels
    if reader.encoding is Encoding.pixels and sizes.min_channels == sizes.max_channels == channels:
        return each_raw_batch(batches, reader, prepare, finish, size, channels)
    return each_batch(batches, reader, prepare, finish, size)


def _one_by_one(
    batches: tf.data.Dataset,
    reader: RecordReader,
    prepare: Callable[[Element], Element],
    data: DataSpec,
    augment: AugmentSpec,
    image_size: int,
) -> tf.data.Dataset:
    """The same where an example may have to be skipped, or much is done to each."""
    size = batches.element_spec["example"].shape[0]

    @do_not_convert
    def spread(batch: Element) -> Element:
        return batch | {"batch_examples": tf.fill([size], batch["batch_examples"])}

    def finish(example: Element) -> Element:
        stored = example["stored"]
        image = image_of(stored, reader.encoding)
        if "window" in example:
            image = decode_crop(image, example["window"], data.channels)
        else:
            image = decode(image, data.channels)
        image = resize(image, image_size)
        if is_active(augment):
            image = augment_image(image, example["draws"], augment)
        kept = {name: example[name] for name in ("mask", "batch_examples", *(("draws",) if mixes(augment) else ()))}
        return {"image": image, "label": stored.label, "weight": stored.weight} | kept

    @do_not_convert
    def element(batch: Element) -> Element:
        return batch | {"batch_examples": batch["batch_examples"][0]}

    examples = each_example(batches.map(spread), reader, prepare, finish)
    if mixes(augment):
        examples = _mixed(examples, augment)
    return examples.batch(size, drop_remainder=True).map(element)


def _mixed(examples: tf.data.Dataset, augment: AugmentSpec) -> tf.data.Dataset:
    """The examples with neighbours mixed, pair by pair: a large batch as a whole would leave the processor's cache."""

    @do_not_convert
    def pair(two: Element) -> Element:
        draws = two.pop("draws")
        return mix_neighbours(two, draws, augment)

    return examples.batch(2, drop_remainder=True).map(pair, NUM_CORES).unbatch()
