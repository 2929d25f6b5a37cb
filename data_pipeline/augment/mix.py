"""MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019) of neighbours in the order of the epoch.

The places 2k and 2k + 1 of a global batch are partners. The order is a permutation drawn anew each epoch, so this is as
random as any other partner; and since a replica's share begins at an even place, both are in it on any number of
replicas, and nothing is read twice.

Each of the two keeps the larger part of its own picture (the share is max(s, 1 - s) of s ~ Beta(alpha, alpha)), so an
epoch still shows each example once. As the other one does the same, the pictures are distributed as in the papers.
"""

import numpy as np
import tensorflow as tf

from conf.schema import AugmentSpec
from data_pipeline.augment.columns import CUT_X, CUT_Y, MIXED, MIXED_HOW
from data_pipeline.augment.erase import rectangle

_CELLS = 4096

Element = dict[str, tf.Tensor]


def mix_neighbours(batch: Element, draws: tf.Tensor, augment: AugmentSpec) -> Element:
    """A batch of an even number of examples with pictures mixed, `label2` and `weight2` of the partners, and `mix`.

    `mix` is float32 [n], the share of the example's own label. Nothing of a partner that is masked comes in.
    """
    images = batch["image"]
    partner = {name: _swapped(batch[name]) for name in ("image", "label", "weight", "mask")}
    kept, share = (tf.cast(part, tf.float32) for part in _kept(images.shape, tf.cast(draws, tf.float64), augment))
    alone = partner["mask"] == 0
    kept = tf.where(alone[:, None, None, None], 1.0, kept)
    mixed = images * kept + partner["image"] * (1 - kept)
    return batch | {
        "image": tf.ensure_shape(mixed, images.shape),
        "label2": partner["label"],
        "weight2": partner["weight"],
        "mix": tf.where(alone, 1.0, share),
    }


def _swapped(values: tf.Tensor) -> tf.Tensor:
    """Each of two neighbours in the other's place."""
    # Flat, and not by a slice with a negative step: that is twenty times slower.
    pairs = tf.reshape(values, [values.shape[0] // 2, 2, -1])
    return tf.reshape(tf.reverse(pairs, [1]), values.shape)


def _kept(shape: tf.TensorShape, draws: tf.Tensor, augment: AugmentSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """How much of each pixel is the example's own, [n, height or 1, width or 1, 1], and of its label, [n]."""
    if not augment.cutmix:
        return _mixed_up(draws, augment.mixup)
    if not augment.mixup:
        return _cut(shape, draws, augment.cutmix)
    first = draws[:, MIXED_HOW] < 0.5
    (kept, share), (kept_cut, share_cut) = _mixed_up(draws, augment.mixup), _cut(shape, draws, augment.cutmix)
    return tf.where(first[:, None, None, None], kept, kept_cut), tf.where(first, share, share_cut)


def _mixed_up(draws: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    share = 1 - partners_share(draws[:, MIXED], alpha)
    return share[:, None, None, None], share


def _cut(shape: tf.TensorShape, draws: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The partner's rectangle has the image's ratio and its centre anywhere; what sticks out is cut off."""
    height, width = shape[1], shape[2]
    side = tf.sqrt(partners_share(draws[:, MIXED], alpha))
    edges = []
    for column, length in ((CUT_Y, height), (CUT_X, width)):
        centre, half = tf.floor(draws[:, column] * length), tf.floor(tf.floor(side * length) / 2)
        edges.append([tf.clip_by_value(centre + sign * half, 0.0, float(length)) for sign in (-1, 1)])
    (top, bottom), (left, right) = edges
    kept = 1 - tf.cast(rectangle(shape, top, left, bottom, right), tf.float64)
    return kept[..., None], 1 - (bottom - top) * (right - left) / (height * width)


def partners_share(draws: tf.Tensor, alpha: float) -> tf.Tensor:
    """min(s, 1 - s) of s ~ Beta(alpha, alpha), from draws in [0, 1), by an increasing function. float64."""
    table = tf.constant(_lower_half(alpha))
    cell = tf.clip_by_value(tf.cast(draws * _CELLS, tf.int32), 0, _CELLS - 1)
    low, high = tf.gather(table, cell), tf.gather(table, cell + 1)
    inside = draws * _CELLS - tf.cast(cell, tf.float64)
    return tf.pow(low + (high - low) * inside, 1 / alpha)


def _lower_half(alpha: float) -> np.ndarray:
    """x ** alpha at the quantiles of Beta(alpha, alpha) below one half, at evenly spaced draws: float64 [_CELLS + 1].

    With t = x ** alpha the density alpha * x ** (alpha - 1) dx becomes dt, so what is left to integrate,
    (1 - x) ** (alpha - 1), is smooth and between 1 and 2 for alpha below 1. By symmetry one half is below one half.
    """
    t = np.linspace(0, 0.5**alpha, 16 * _CELLS + 1)
    density = (1 - t ** (1 / alpha)) ** (alpha - 1)
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(np.linspace(0, 1, _CELLS + 1), below / below[-1], t)
