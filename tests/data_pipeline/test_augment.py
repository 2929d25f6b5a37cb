"""Random changes of images against NumPy, Pillow and tf.image, on photographs."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from conf.schema import AugmentSpec, DataSpec
from data_pipeline.augment import augment_batch, augment_image
from data_pipeline.augment.columns import (
    AREA,
    BRIGHTNESS,
    CONTRAST,
    CROP_X,
    CROP_Y,
    FLIP,
    NUM_DRAWS,
    PAD_X,
    PAD_Y,
    RATIO,
    is_active,
)
from data_pipeline.augment.crop import crop_windows
from data_pipeline.images import decode_crop
from data_pipeline.manifest import Manifest
from data_pipeline.order import BatchShape, draws
from data_pipeline.pipeline import training_dataset

SIDE = 24


@pytest.fixture(scope="module")
def images(photographs: list[np.ndarray]) -> np.ndarray:
    corners = np.random.default_rng(0).integers(0, 400, (50, 2))
    return np.stack([photographs[0][y : y + SIDE, x : x + SIDE] for y, x in corners])


def drawn() -> np.ndarray:
    return draws(0, 0, np.arange(50), NUM_DRAWS)


def flipped(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return image[:, ::-1] if draw[FLIP] < 0.5 else image


def pad_cropped(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    y, x = int(draw[PAD_Y] * 9), int(draw[PAD_X] * 9)
    return np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")[y : y + SIDE, x : x + SIDE]


def brightened(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return np.clip(image + (2 * draw[BRIGHTNESS] - 1) * 0.3 * 255, 0, 255)


def contrasted(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    adjusted = tf.image.adjust_contrast(tf.cast(image, tf.float32), 0.6 + 0.8 * draw[CONTRAST])
    return np.clip(adjusted.numpy(), 0, 255)


@pytest.mark.parametrize(
    ("augment", "reference"),
    [
        (AugmentSpec(flip=True), flipped),
        (AugmentSpec(pad_crop=4), pad_cropped),
        (AugmentSpec(brightness=0.3), brightened),
        (AugmentSpec(contrast=0.4), contrasted),
        (AugmentSpec(flip=True, pad_crop=4), lambda image, draw: flipped(pad_cropped(image, draw), draw)),
    ],
    ids=["flip", "pad_crop", "brightness", "contrast", "pad_crop_and_flip"],
)
def test_a_change_is_what_it_says(
    images: np.ndarray, augment: AugmentSpec, reference: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    expected = np.stack([reference(image, draw) for image, draw in zip(images, drawn(), strict=True)])
    batch = augment_batch(tf.constant(images), tf.constant(drawn()), augment).numpy()
    np.testing.assert_allclose(batch, expected, atol=2e-3)
    for image, draw, other in zip(images, drawn(), batch, strict=True):
        alone = augment_image(tf.constant(image, tf.float32), tf.constant(draw), augment)
        np.testing.assert_allclose(alone.numpy(), other, atol=1e-3)
    changed = np.mean([not np.array_equal(one, other) for one, other in zip(batch, images, strict=True)])
    assert changed > 0.3 and len({image.tobytes() for image in batch}) == 50


def test_nothing_is_changed_unasked(images: np.ndarray) -> None:
    assert not is_active(AugmentSpec())
    batch = augment_batch(tf.constant(images), tf.constant(drawn()), AugmentSpec())
    np.testing.assert_array_equal(batch.numpy(), images)


@pytest.mark.parametrize(("height", "width"), [(427, 640), (50, 50), (30, 400), (1, 1)])
@pytest.mark.parametrize("min_area", [0.08, 0.5])
def test_random_resized_crops_lie_inside_and_have_their_area(height: int, width: int, min_area: float) -> None:
    augment = AugmentSpec(crop_min_area=min_area)
    many = draws(1, 0, np.arange(300), NUM_DRAWS)
    sides = [tf.fill([300], side) for side in (height, width)]
    found = tf.function(lambda columns: crop_windows(*sides, columns, augment))(tf.constant(many)).numpy()
    y, x, crop_height, crop_width = found.T
    assert (y >= 0).all() and (x >= 0).all() and (crop_height >= 1).all() and (crop_width >= 1).all()
    assert (y + crop_height <= height).all() and (x + crop_width <= width).all()
    if height < 40:
        return
    ratio = 0.75 * (16 / 9) ** many[:, RATIO].astype(float)
    fits = np.minimum(1, np.minimum(width / height / ratio, height / width * ratio))
    areas = crop_height * crop_width / height / width
    np.testing.assert_allclose(areas, min_area + (fits - min_area) * many[:, AREA], rtol=0.06)
    np.testing.assert_allclose(crop_width / crop_height, ratio, rtol=0.06)
    assert np.std(areas) > 0.05 and np.std(ratio) > 0.1
    places = (y + 0.5) / (height - crop_height + 1), (x + 0.5) / (width - crop_width + 1)
    for place, column in zip(places, (CROP_Y, CROP_X), strict=True):
        np.testing.assert_allclose(place, many[:, column], atol=0.51)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_only_the_window_is_decoded_and_it_is_the_right_one(photographs: list[np.ndarray], kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(photographs[1]).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    window = tf.constant([100, 37, 150, 201])
    crop = decode_crop(tf.constant(out.getvalue()), window, 3).numpy()
    whole = np.asarray(Image.open(out), int)[100:250, 37:238]
    # Chroma is interpolated from neighbours which a decoder of the window alone does not see.
    assert np.abs(crop - whole).mean() < 0.3


def test_crops_are_drawn_anew_every_epoch_and_the_same_again(
    folder: object, prepare_set: Callable[..., Manifest]
) -> None:
    manifest = prepare_set(name="folder", path=str(folder))
    data = DataSpec(augment=AugmentSpec(crop_min_area=0.3, flip=True), shuffle=False)

    def pixels(start_step: int) -> list[np.ndarray]:
        dataset = training_dataset(manifest, data, 0, BatchShape(28), range(1), 32, start_step)
        return [element["image"] for element in dataset.take(3).as_numpy_iterator()]

    first, again, later = pixels(0), pixels(0), pixels(1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[1:], later[:2])
    assert np.abs(first[0] - first[1]).mean() > 5
