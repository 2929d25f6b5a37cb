"""The images of a batch in one operation, against Pillow's decoding and NumPy's interpolation, image by image."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from conf.schema import AugmentSpec, Encoding
from data_pipeline.at_once import BatchImages, can_be_at_once
from data_pipeline.images import StoredPixels, parse
from data_pipeline.manifest import ImageSizes
from data_pipeline.records import Record, decode, encode

SIDE = 48
#: y, x, height, width: larger and smaller than what becomes of it, far from square, the last so large that it aliases.
WINDOWS = np.array([[0, 0, 60, 70], [13, 30, 20, 31], [40, 7, 90, 48], [5, 11, 130, 33], [3, 2, 20, 170]], np.int32)
MIRRORED = np.array([True, False, True, False, True])


def bilinear(pixels: np.ndarray) -> np.ndarray:
    """Centres of pixels on centres of pixels, two neighbours each way, edges repeated."""
    for axis in (0, 1):
        at = (np.arange(SIDE) + 0.5) * pixels.shape[axis] / SIDE - 0.5
        below = np.floor(at).astype(int)
        share = (at - below).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        low, high = (np.take(pixels, np.clip(below + up, 0, pixels.shape[axis] - 1), axis) for up in (0, 1))
        pixels = low * (1 - share) + high * share
    return pixels


def stored_as(kind: str, pixels: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The bytes, and what another decoder makes of them."""
    if kind in ("pixels", "together"):
        return pixels.tobytes(), pixels
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue(), np.asarray(Image.open(out))


def together(records: list[bytes]) -> StoredPixels:
    """The pixels of all in one array, with something between them."""
    found = [decode(record) for record in records]
    data = b"".join(record.encoded + b"between" for record in found)
    begins = np.cumsum([0, *(len(record.encoded) + len(b"between") for record in found)])[:-1]
    sizes = [[getattr(record, name) for record in found] for name in ("height", "width")]
    columns = (tf.constant(np.array(column, np.int64)) for column in (begins, *sizes))
    begin, height, width = columns
    ones = tf.ones_like(begin)
    return StoredPixels(tf.io.decode_raw(data, tf.uint8), begin, tf.cast(ones, tf.int32), ones, height, width)


@pytest.mark.parametrize(
    "kinds", [["JPEG"], ["JPEG", "PNG"], ["pixels"], ["together"]], ids=["jpeg", "mixed", "pixels", "together"]
)
@pytest.mark.parametrize("cut", [True, False], ids=["windows", "whole"])
def test_every_image_of_a_batch_is_as_other_libraries_have_it(
    photographs: list[np.ndarray], kinds: list[str], cut: bool
) -> None:
    records, expected = [], []
    for number, (window, mirrored) in enumerate(zip(WINDOWS, MIRRORED, strict=True)):
        photograph = photographs[number % 2][40 * number :, 10 * number :][: 140 + number, :180]
        photograph = photograph if cut else photograph[:120, :130]
        data, pixels = stored_as(kinds[number % len(kinds)], np.ascontiguousarray(photograph))
        records.append(
            encode(Record(data, "raw" if kinds[0] in ("pixels", "together") else "jpeg", *pixels.shape[:2], 0, ""))
        )
        y, x, height, width = window if cut else (0, 0, *pixels.shape[:2])
        part = pixels[y : y + height, x : x + width]
        image = bilinear(part.astype(float))
        if max(height, width) > 3 * SIDE:
            image = np.asarray(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.BILINEAR), float)
        expected.append(image[:, ::-1] if mirrored else image)
    encoding = Encoding.pixels if kinds[0] in ("pixels", "together") else Encoding.files
    largest = 180 if cut else 130
    make = BatchImages(encoding, ImageSizes(1, largest, 1, largest, 3, 3), 3, SIDE)
    draws = tf.constant(np.where(MIRRORED, 0.2, 0.7)[:, None].astype(np.float32))

    @tf.function(autograph=False)
    def images() -> tf.Tensor:
        stored = together(records) if kinds == ["together"] else parse(tf.constant(records))
        return make(stored, tf.constant(WINDOWS) if cut else None, draws)

    found = images().numpy()
    assert found.dtype == np.float32
    for own, theirs, window in zip(found, expected, WINDOWS, strict=True):
        atol = 2.0 if cut and max(window[2:]) > 3 * SIDE else 0.01  # Pillow filters in fixed point
        np.testing.assert_allclose(own, theirs, atol=atol)
        assert theirs.std() > 5 and np.abs(theirs - theirs[:, ::-1]).mean() > 1


def test_grey_and_colour_pixels_come_together(photographs: list[np.ndarray]) -> None:
    colour = photographs[0][:SIDE, :SIDE]
    grey = np.ascontiguousarray(colour[..., 1:2])
    records = [encode(Record(pixels.tobytes(), "raw", SIDE, SIDE, 0, "")) for pixels in (colour, grey)]
    make = BatchImages(Encoding.pixels, ImageSizes(SIDE, SIDE, SIDE, SIDE, 1, 3), 3, SIDE)
    found = tf.function(lambda: make(parse(tf.constant(records)), None, None), autograph=False)()
    np.testing.assert_array_equal(found, [colour, np.tile(grey, [1, 1, 3])])


def test_what_costs_more_than_the_way_stays_on_the_other() -> None:
    assert can_be_at_once(AugmentSpec(flip=True, crop_min_area=0.1)) and can_be_at_once(AugmentSpec())
    assert not can_be_at_once(AugmentSpec(rotation=5.0)) and not can_be_at_once(AugmentSpec(pad_crop=4))
