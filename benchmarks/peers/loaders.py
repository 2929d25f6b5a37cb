"""DALI on CPU, Grain and WebDataset over the same photographs, each as its documentation has it, in any order.

Grain and WebDataset leave decoding to others: simplejpeg (libjpeg-turbo, fast transform) and OpenCV, the fastest that
can be had. They, and DALI, give bytes; Convoy and the tf.data scripts give float32, which is four times to write.
"""

import multiprocessing
import os
from pathlib import Path

import numpy as np

from benchmarks.photographs import random_crop

BATCH = 64


def dali(folder: Path, size: int):
    """Decoding of the crop alone, fast transform, no filter, like the tuned tf.data script."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=len(os.sched_getaffinity(0)), device_id=None)
    def pipeline():
        encoded, labels = fn.readers.file(file_root=str(folder / "jpeg"), random_shuffle=True, name="reader")
        images = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
            jpeg_fancy_upsampling=False,
            use_fast_idct=True,
        )
        images = fn.resize(images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=False)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    built = pipeline()
    built.build()
    while True:
        images, labels = built.run()
        yield images.as_array(), labels.as_array()


def _decode(encoded, size, random):
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    pixels = simplejpeg.decode_jpeg(encoded, fastdct=True, fastupsample=True)
    left, top, width, height = random_crop(pixels.shape[1], pixels.shape[0], random.random)
    cut = pixels[top : top + height, left : left + width]
    image = cv2.resize(cut, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(image, 1) if random.random() < 0.5 else image


def grain(folder: Path, size: int):
    """Random access to ArrayRecord, a thread a core: here faster than its worker processes."""
    import absl.flags
    import grain
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    absl.flags.FLAGS.mark_as_parsed()
    source = ArrayRecordDataSource(sorted(map(str, folder.glob("array_record/*"))))

    def image(record, random):
        return _decode(record[1:], size, random), int(record[:1])

    dataset = grain.MapDataset.source(source).shuffle(seed=1).repeat().seed(1).random_map(image)
    options = grain.ReadOptions(num_threads=len(os.sched_getaffinity(0)), prefetch_buffer_size=128)
    return iter(dataset.to_iter_dataset(options).batch(BATCH))


def _web_worker(folder, size, rank, queue):
    import webdataset

    random = np.random.default_rng(rank)
    shards = sorted(map(str, folder.glob("shards/*.tar")))
    dataset = webdataset.WebDataset(shards, shardshuffle=4, nodesplitter=None, workersplitter=None)
    images, labels = [], []
    for sample in dataset.shuffle(500).repeat():
        images.append(_decode(sample["jpg"], size, random))
        labels.append(int(sample["cls"]))
        if len(images) == BATCH:
            queue.put((np.stack(images), np.array(labels)))
            images, labels = [], []


def web_dataset(folder: Path, size: int):
    """Tar files in sequence, a process a core."""
    import webdataset  # noqa: F401  # missing: known here, not in a child

    context = multiprocessing.get_context("fork")
    queue = context.Queue(4)
    for rank in range(len(os.sched_getaffinity(0))):
        context.Process(target=_web_worker, args=(folder, size, rank, queue), daemon=True).start()
    while True:
        yield queue.get()
