"""Drawn pictures that can be learnt, for trying and measuring: gratings whose direction and colour tell the class."""

from functools import partial

import numpy as np

from conf.schema import DataSpec
from data_pipeline.sources import ALL, Example, Pixels, Source

_SIDE = 32


def examples(data: DataSpec, seed: int) -> Source:
    """`data.num_examples` pictures of `data.num_classes` classes; each depends on (seed, index) alone."""
    side = data.image_size or _SIDE
    draw = partial(_picture, seed, side, data.channels, data.num_classes)
    indices = range(data.num_examples)
    pictures = [Example(partial(draw, index), index % data.num_classes, f"{index:08d}") for index in indices]
    width = len(str(data.num_classes - 1))
    return Source([f"class_{number:0{width}d}" for number in range(data.num_classes)], {ALL: pictures})


def _picture(seed: int, side: int, channels: int, num_classes: int, index: int) -> Pixels:
    random = np.random.default_rng([seed & (2**64 - 1), index])
    share = (index % num_classes) / num_classes
    angle, phase = np.pi * share, random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:side, 0:side] / side
    wave = np.sin(2 * np.pi * 3 * (rows * np.sin(angle) + columns * np.cos(angle)) + phase)
    colour = 0.6 + 0.4 * np.cos(2 * np.pi * (share + np.arange(channels) / 3))
    picture = 128 + 80 * wave[:, :, None] * colour + random.normal(0, 24, (side, side, channels))
    return np.clip(picture, 0, 255).astype(np.uint8)
