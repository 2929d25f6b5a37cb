"""Warps, colours, erasing and RandAugment against Pillow, NumPy and colorsys, on photographs."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from conf.schema import AugmentSpec
from data_pipeline.augment import augment_batch, augment_image
from data_pipeline.augment.columns import (
    ERASED,
    HUE,
    NUM_DRAWS,
    RANDAUGMENT,
    ROTATION,
    SATURATION,
    SHEAR,
    SHIFT_X,
    SHIFT_Y,
    ZOOM,
    num_draws,
)
from data_pipeline.augment.randaugment import CHANGES
from data_pipeline.order import draws

HEIGHT, WIDTH, COUNT = 40, 32, 60
Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def images(photographs: list[np.ndarray]) -> np.ndarray:
    """Cut-outs of both photographs, uint8 [COUNT, HEIGHT, WIDTH, 3]."""
    random = np.random.default_rng(0)
    corners = zip(random.integers(0, 427 - HEIGHT, COUNT), random.integers(0, 640 - WIDTH, COUNT), strict=True)
    return np.stack([photographs[n % 2][y : y + HEIGHT, x : x + WIDTH] for n, (y, x) in enumerate(corners)])


def drawn(augment: AugmentSpec) -> np.ndarray:
    return draws(4, 2, np.arange(COUNT), num_draws(augment))


def by_pillow(image: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """The image moved by a 3x3 matrix over (x, y, 1) about its centre; float, with its mirror image round it."""
    border = HEIGHT
    framed = np.pad(image.astype(np.float32), ((border, border), (border, border), (0, 0)), "symmetric")
    height, width = framed.shape[:2]
    to_middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    inverse = np.linalg.inv(np.linalg.inv(to_middle) @ forward @ to_middle)
    channels = [
        Image.fromarray(np.ascontiguousarray(framed[..., channel])).transform(
            (width, height), Image.Transform.AFFINE, inverse[:2].reshape(-1), Image.Resampling.BILINEAR
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1)[border:-border, border:-border]


def turn(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def either_way(draw: np.ndarray, column: int, most: float) -> float:
    return float(2 * draw[column] - 1) * most


def rotated(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return by_pillow(image, turn(either_way(draw, ROTATION, 40)))


def translated(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return by_pillow(image, shift(either_way(draw, SHIFT_X, 0.3 * WIDTH), either_way(draw, SHIFT_Y, 0.3 * HEIGHT)))


def sheared(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return by_pillow(image, np.array([[1, np.tan(np.radians(either_way(draw, SHEAR, 30))), 0], [0, 1, 0], [0, 0, 1]]))


def zoomed(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    factor = 1 + either_way(draw, ZOOM, 0.4)
    return by_pillow(image, np.diag([factor, factor, 1]))


def warped(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    shear = np.array([[1, np.tan(np.radians(either_way(draw, SHEAR, 10))), 0], [0, 1, 0], [0, 0, 1]])
    factor = 1 + either_way(draw, ZOOM, 0.2)
    moved = shift(either_way(draw, SHIFT_X, 0.1 * WIDTH), either_way(draw, SHIFT_Y, 0.1 * HEIGHT))
    return by_pillow(image, moved @ turn(either_way(draw, ROTATION, 15)) @ np.diag([factor, factor, 1]) @ shear)


def saturated(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(0.2 + 1.6 * float(draw[SATURATION])))


def turned(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    amount = either_way(draw, HUE, 0.3)
    pixels = []
    for pixel in image.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixels.append(colorsys.hsv_to_rgb((hue + amount) % 1, saturation, value))
    return 255 * np.array(pixels).reshape(image.shape)


@pytest.mark.parametrize(
    ("augment", "reference", "most"),
    [
        (AugmentSpec(rotation=40), rotated, 0.05),
        (AugmentSpec(translation=0.3), translated, 0.05),
        (AugmentSpec(shear=30), sheared, 0.05),
        (AugmentSpec(zoom=0.4), zoomed, 0.05),
        (AugmentSpec(rotation=15, translation=0.1, shear=10, zoom=0.2), warped, 0.05),
        (AugmentSpec(saturation=0.8), saturated, 1.5),
        (AugmentSpec(hue=0.3), turned, 0.01),
    ],
    ids=["rotation", "translation", "shear", "zoom", "all-warps", "saturation", "hue"],
)
def test_a_change_equals_its_reference(
    images: np.ndarray, augment: AugmentSpec, reference: Reference, most: float
) -> None:
    chosen, draw = images[:24], drawn(augment)[:24]
    expected = np.stack([reference(image, own) for image, own in zip(chosen, draw, strict=True)]).astype(np.float32)
    batch = augment_batch(tf.constant(chosen), tf.constant(draw), augment).numpy()
    assert np.abs(batch - expected).max() < most
    assert np.abs(batch - chosen).mean() > 3
    assert_alone_is_the_same(chosen, draw, augment, batch)


def assert_alone_is_the_same(images: np.ndarray, draw: np.ndarray, augment: AugmentSpec, batch: np.ndarray) -> None:
    alone = tf.function(lambda image, own: augment_image(image, own, augment))
    for image, own, other in zip(images, draw, batch, strict=True):
        found = alone(tf.constant(image, tf.float32), tf.constant(own)).numpy()
        np.testing.assert_allclose(found, other, atol=1e-3)


def test_a_rectangle_is_erased_as_the_paper_says(images: np.ndarray) -> None:
    augment = AugmentSpec(erasing=0.6)
    many, draw = np.tile(images, (10, 1, 1, 1)), draws(4, 2, np.arange(10 * COUNT), num_draws(augment))
    batch = augment_batch(tf.constant(many), tf.constant(draw), augment).numpy()
    shares = []
    for image, own, other in zip(many, draw, batch, strict=True):
        covered = (other != image).any(-1)
        assert covered.any() == (own[ERASED] < 0.6)
        if not covered.any():
            continue
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        window = other[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_allclose(window, np.broadcast_to(image.mean((0, 1)), window.shape), atol=0.01)
        shares.append(window.shape[0] * window.shape[1] / image.shape[0] / image.shape[1])
        assert 0.1 < window.shape[0] / window.shape[1] < 10
    assert 0.5 < len(shares) / len(many) < 0.7
    assert 0.01 < min(shares) < 0.04 and 0.28 < max(shares) < 0.36 and np.mean(shares) == pytest.approx(0.175, abs=0.02)
    assert_alone_is_the_same(many[:20], draw[:20], augment, batch[:20])


MAGNITUDE = 20
LEVEL = MAGNITUDE / 30


def enhanced(kind: type) -> Reference:
    return lambda image, sign: np.asarray(kind(Image.fromarray(image)).enhance(1 + 0.9 * LEVEL * float(sign)))


def operated(operation: Callable[..., Image.Image], *options: float) -> Reference:
    return lambda image, sign: np.asarray(operation(Image.fromarray(image), *options))


def moved(matrix: Callable[[float], np.ndarray]) -> Reference:
    return lambda image, sign: by_pillow(image, matrix(LEVEL * float(sign)))


#: What torchvision does at this magnitude, by Pillow, in our order; the largest mean difference in levels.
REFERENCES: list[tuple[str, Reference, float]] = [
    ("identity", lambda image, sign: image, 0),
    ("shear x", moved(lambda level: np.linalg.inv([[1, 0.3 * level, 0], [0, 1, 0], [0, 0, 1]])), 0.05),
    ("shear y", moved(lambda level: np.linalg.inv([[1, 0, 0], [0.3 * level, 1, 0], [0, 0, 1]])), 0.05),
    ("translate x", moved(lambda level: shift(150 / 331 * WIDTH * level, 0)), 0.05),
    ("translate y", moved(lambda level: shift(0, 150 / 331 * HEIGHT * level)), 0.05),
    ("rotate", moved(lambda level: turn(30 * level)), 0.05),
    ("brightness", enhanced(ImageEnhance.Brightness), 0.6),
    ("saturation", enhanced(ImageEnhance.Color), 0.8),
    ("contrast", enhanced(ImageEnhance.Contrast), 0.8),
    ("sharpness", enhanced(ImageEnhance.Sharpness), 0.6),
    ("posterize", operated(ImageOps.posterize, 8 - round(4 * LEVEL)), 0),
    ("solarize", operated(ImageOps.solarize, 255 - 8.5 * MAGNITUDE), 0),
    ("autocontrast", operated(ImageOps.autocontrast), 0.6),
    ("equalize", operated(ImageOps.equalize), 0),
]


def chosen_draw(change: int, sign: int) -> float:
    """A draw that means this change with this sign."""
    return (2 * change + (sign < 0) + 0.5) / (2 * len(CHANGES))


@pytest.mark.parametrize("number", range(len(REFERENCES)), ids=[name for name, _, _ in REFERENCES])
def test_randaugment_changes_as_pillow_does(images: np.ndarray, number: int) -> None:
    name, reference, most = REFERENCES[number]
    augment = AugmentSpec(randaugment_ops=1, randaugment_magnitude=MAGNITUDE)
    draw, signs = drawn(augment), np.where(np.arange(COUNT) % 2, -1, 1)
    draw[:, RANDAUGMENT] = [chosen_draw(number, sign) for sign in signs]
    batch = augment_batch(tf.constant(images), tf.constant(draw), augment).numpy()
    expected = np.stack([reference(image, sign) for image, sign in zip(images, signs, strict=True)])
    assert np.abs(batch - expected).mean() <= most
    assert np.abs(batch - expected).max() <= 2 * bool(most)
    assert name == "identity" or np.abs(batch - images).mean() > 1
    assert len(CHANGES) == len(REFERENCES)


def test_randaugment_draws_every_change_and_sign_for_each_image_by_itself(images: np.ndarray) -> None:
    augment = AugmentSpec(randaugment_ops=3, randaugment_magnitude=12)
    draw = drawn(augment)
    batch = augment_batch(tf.constant(images), tf.constant(draw), augment).numpy()
    assert_alone_is_the_same(images, draw, augment, batch)
    assert batch.min() >= 0 and batch.max() <= 255
    # What it means to go through several: one after the other.
    one = AugmentSpec(randaugment_ops=1, randaugment_magnitude=12)
    step = tf.constant(images, tf.float32)
    for number in range(3):
        own = draw[:, : RANDAUGMENT + 1].copy()
        own[:, RANDAUGMENT] = draw[:, RANDAUGMENT + number]
        step = augment_batch(step, tf.constant(own), one)
    np.testing.assert_array_equal(batch, step.numpy())
    many = np.floor(draws(0, 0, np.arange(5000), NUM_DRAWS)[:, RANDAUGMENT:] * 28).astype(int)
    counts = np.apply_along_axis(np.bincount, 0, many, minlength=28)
    assert counts.shape == (28, 8) and counts.min() > 100 and counts.max() < 260


def test_grey_images_take_what_has_a_meaning_for_them(images: np.ndarray) -> None:
    augment = AugmentSpec(rotation=20, randaugment_ops=4, randaugment_magnitude=15, erasing=0.5)
    grey, draw = images[..., :1], drawn(augment)
    batch = augment_batch(tf.constant(grey), tf.constant(draw), augment).numpy()
    assert batch.shape == grey.shape and np.isfinite(batch).all() and np.abs(batch - grey).mean() > 5
    assert_alone_is_the_same(grey, draw, augment, batch)


def test_images_of_a_few_pixels_survive(images: np.ndarray) -> None:
    augment = AugmentSpec(rotation=20, hue=0.2, saturation=0.5, randaugment_ops=8, erasing=1, flip=True)
    for height, width in ((1, 1), (2, 3)):
        tiny = images[:, :height, :width]
        assert np.isfinite(augment_batch(tf.constant(tiny), tf.constant(drawn(augment)), augment)).all()


def test_new_columns_leave_the_old_draws_alone() -> None:
    examples = np.array([0, 7, 10**12])
    for columns in (1, 9, 25):
        np.testing.assert_array_equal(draws(5, 1, examples, NUM_DRAWS)[:, :columns], draws(5, 1, examples, columns))
    assert num_draws(AugmentSpec()) == 0 and num_draws(AugmentSpec(flip=True)) == 9
    assert num_draws(AugmentSpec(randaugment_ops=8, mixup=1)) == NUM_DRAWS
