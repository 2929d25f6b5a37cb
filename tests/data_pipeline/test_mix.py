"""MixUp and CutMix against the papers' own formulas in NumPy, and the same on any number of replicas."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import AugmentSpec, DataSpec, Remainder
from data_pipeline.augment.columns import CUT_X, CUT_Y, MIXED, MIXED_HOW, num_draws
from data_pipeline.augment.mix import mix_neighbours, partners_share
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape, draws, steps_per_epoch
from data_pipeline.pipeline import training_dataset

Element = dict[str, np.ndarray]

PER_EXAMPLE = ("image", "label", "label2", "mix", "weight", "weight2", "mask")
EVERYTHING = AugmentSpec(
    flip=True,
    brightness=0.2,
    contrast=0.3,
    saturation=0.5,
    hue=0.1,
    rotation=15,
    translation=0.1,
    shear=10,
    zoom=0.2,
    erasing=0.5,
    randaugment_ops=2,
    mixup=0.4,
    cutmix=1.0,
)


@pytest.fixture(scope="module")
def batch(photographs: list[np.ndarray]) -> Element:
    """Forty cut-outs with labels and weights; two of them are masked."""
    random = np.random.default_rng(1)
    corners = random.integers(0, 380, (40, 2))
    images = [photographs[n % 2][y : y + 30, x : x + 44] for n, (y, x) in enumerate(corners)]
    mask = np.ones(40, np.float32)
    mask[[5, 38]] = 0
    return {
        "image": np.stack(images).astype(np.float32),
        "label": random.integers(0, 10, 40).astype(np.int32),
        "weight": random.uniform(0.5, 2, 40).astype(np.float32),
        "mask": mask,
    }


def mixed(batch: Element, augment: AugmentSpec) -> tuple[Element, np.ndarray]:
    drawn = draws(0, 0, np.arange(40), num_draws(augment))
    found = mix_neighbours({name: tf.constant(value) for name, value in batch.items()}, tf.constant(drawn), augment)
    return {name: value.numpy() for name, value in found.items()}, drawn


def partners(batch: Element) -> tuple[Element, np.ndarray]:
    """What comes from the neighbour, and where nothing may."""
    swap = np.arange(40) ^ 1
    return {name: value[swap] for name, value in batch.items()}, batch["mask"][swap] == 0


def own_shares(drawn: np.ndarray, alpha: float) -> np.ndarray:
    return 1 - partners_share(tf.constant(drawn[:, MIXED], tf.float64), alpha).numpy()


def mixed_up(batch: Element, drawn: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """x = s * x_i + (1 - s) * x_j (Zhang et al. 2018, section 2)."""
    other, alone = partners(batch)
    shares = np.where(alone, 1, own_shares(drawn, alpha))
    wide = shares[:, None, None, None]
    return wide * batch["image"] + (1 - wide) * other["image"], shares


def cut(batch: Element, drawn: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The rand_bbox of Yun et al. 2019, image by image; the share is what is left of the area."""
    other, alone = partners(batch)
    images, shares = batch["image"].copy(), np.ones(40)
    height, width = images.shape[1:3]
    for number, share in enumerate(own_shares(drawn, alpha)):
        if alone[number]:
            continue
        side = np.sqrt(1 - share)
        cut_height, cut_width = int(height * side), int(width * side)
        y, x = int(drawn[number, CUT_Y] * height), int(drawn[number, CUT_X] * width)
        top, bottom = np.clip([y - cut_height // 2, y + cut_height // 2], 0, height)
        left, right = np.clip([x - cut_width // 2, x + cut_width // 2], 0, width)
        images[number, top:bottom, left:right] = other["image"][number, top:bottom, left:right]
        shares[number] = 1 - (bottom - top) * (right - left) / (height * width)
    return images, shares


@pytest.mark.parametrize(
    ("augment", "reference"),
    [(AugmentSpec(mixup=0.4), mixed_up), (AugmentSpec(cutmix=1.0), cut)],
    ids=["mixup", "cutmix"],
)
def test_pictures_and_shares_are_those_of_the_paper(
    batch: Element, augment: AugmentSpec, reference: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> None:
    found, drawn = mixed(batch, augment)
    images, shares = reference(batch, drawn, augment.mixup or augment.cutmix)
    np.testing.assert_allclose(found["image"], images, atol=1e-3)
    np.testing.assert_allclose(found["mix"], shares, atol=1e-6)
    other, alone = partners(batch)
    np.testing.assert_array_equal(found["label2"], other["label"])
    np.testing.assert_array_equal(found["weight2"], other["weight"])
    assert alone.sum() == 2 and (found["mix"][alone] == 1).all()
    np.testing.assert_array_equal(found["image"][alone], batch["image"][alone])
    assert found["mix"].min() >= 0.5 and np.mean(found["mix"] < 0.99) > 0.5


def test_with_both_each_takes_half_of_the_images(batch: Element) -> None:
    augment = AugmentSpec(mixup=0.4, cutmix=1.0)
    found, drawn = mixed(batch, augment)
    first = drawn[:, MIXED_HOW] < 0.5
    images = np.where(first[:, None, None, None], mixed_up(batch, drawn, 0.4)[0], cut(batch, drawn, 1.0)[0])
    np.testing.assert_allclose(found["image"], images, atol=1e-3)
    assert 10 < first.sum() < 30


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 2.0, 8.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    """The distribution function of TensorFlow at each share is the draw it came from."""
    uniform = np.linspace(0.0005, 0.9995, 500)
    shares = partners_share(tf.constant(uniform), alpha).numpy()
    below = 2 * tf.math.betainc(tf.constant(alpha, tf.float64), tf.constant(alpha, tf.float64), shares).numpy()
    np.testing.assert_allclose(below, uniform, atol=2e-4)
    assert (np.diff(shares) >= 0).all() and shares[0] >= 0 and shares[-1] <= 0.5


def epochs(manifest: Manifest, data: DataSpec, shape: BatchShape, own: range, first: int = 0) -> list[Element]:
    """What is left of the first two epochs after `first` steps: the elements of `own` replicas, step by step."""
    steps = 2 * steps_per_epoch(28, 8, data.remainder) - first
    dataset = training_dataset(manifest, data, 11, shape, own, 32, first)
    return list(dataset.take(steps * len(own)).as_numpy_iterator())


def assert_equal(some: list[Element], others: list[Element]) -> None:
    for one, other in zip(some, others, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], name)


def together(elements: list[Element], replicas: int) -> list[Element]:
    """The shares of each step's replicas put together."""
    steps = [elements[first : first + replicas] for first in range(0, len(elements), replicas)]
    return [{name: np.concatenate([own[name] for own in step]) for name in PER_EXAMPLE} for step in steps]


#: Each leads to pixels by another way: kept, cut out one by one, cut out a batch at a time, kept and copied by rows.
WAYS = {
    "in memory": {"augment": replace(EVERYTHING, pad_crop=3)},
    "cropped": {"augment": replace(EVERYTHING, crop_min_area=0.4)},
    "cropped at once": {"augment": AugmentSpec(crop_min_area=0.4, flip=True, mixup=0.4)},
    "by rows": {"augment": AugmentSpec(pad_crop=3, flip=True, cutmix=1.0)},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_augmented_epoch_is_the_same_on_one_two_and_four_workers_and_replicas_and_after_a_resume(
    folder: object, prepare_set: Callable[..., Manifest], way: str
) -> None:
    manifest = prepare_set(name="folder", path=str(folder))
    data = DataSpec(remainder=Remainder.pad, **WAYS[way])
    alone = epochs(manifest, data, BatchShape(8), range(1))
    assert len(alone) == 8 and {"batch_examples", *PER_EXAMPLE} == alone[0].keys()
    two = [together(epochs(manifest, data, BatchShape(8, 1, 4), own), 2) for own in (range(2), range(2, 4))]
    four = [epochs(manifest, data, BatchShape(8, 1, 4), range(rank, rank + 1)) for rank in range(4)]
    for workers in (two, four):
        steps = [element for step in zip(*workers, strict=True) for element in step]
        assert_equal(together(steps, len(workers)), alone)
    assert_equal(epochs(manifest, data, BatchShape(8), range(1), first=3), alone[3:])
    moved = [np.abs(one["image"] - other["image"]).mean() for one, other in zip(alone[:4], alone[4:], strict=True)]
    assert min(moved) > 5 and np.mean(alone[0]["mix"]) < 0.97


def test_both_ways_of_reading_mix_the_same(folder: object, prepare_set: Callable[..., Manifest]) -> None:
    manifest = prepare_set(name="folder", path=str(folder))
    ways = [DataSpec(augment=EVERYTHING, memory_bytes=memory) for memory in (0, 1 << 28)]
    for one, other in zip(*(epochs(manifest, data, BatchShape(8), range(1)) for data in ways), strict=True):
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], atol=1e-3, err_msg=name)


def test_an_example_without_a_partner_is_refused(folder: object, prepare_set: Callable[..., Manifest]) -> None:
    manifest = prepare_set(name="folder", path=str(folder))
    data = DataSpec(augment=AugmentSpec(mixup=0.2))
    with pytest.raises(BadSpec, match=r"global_batch_size=12 - MixUp and CutMix take pairs.*multiple of 8 - .*: 8, 16"):
        training_dataset(manifest, data, 0, BatchShape(12, 1, 4), range(4), 32)
    training_dataset(manifest, data, 0, BatchShape(16, 2, 4), range(4), 32)
