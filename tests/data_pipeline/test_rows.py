"""Windows of images in memory, gathered by rows: against NumPy's own padding, slicing and mirroring."""

import numpy as np
import pytest

from conf.schema import AugmentSpec
from data_pipeline import rows
from data_pipeline.rows import ShiftedRows, padded_bytes

COUNT, HEIGHT, WIDTH = 7, 9, 13


@pytest.mark.parametrize(
    "augment", [AugmentSpec(flip=True, pad_crop=3), AugmentSpec(flip=True), AugmentSpec(pad_crop=8)]
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_windows_are_cut_out_of_the_reflected_border(
    augment: AugmentSpec, channels: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    pixels = random.uniform(0, 255, (COUNT, HEIGHT, WIDTH, channels)).astype(kind)
    examples = random.integers(0, COUNT, 40)
    draws = np.concatenate([random.random((38, 9)), np.zeros((1, 9)), np.full((1, 9), 1 - 2**-24)]).astype(np.float32)
    pad = augment.pad_crop
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
    expected = []
    for example, (flip, y, x) in zip(examples, draws[:, :3], strict=True):
        top, left = int(y * (2 * pad + 1)), int(x * (2 * pad + 1))
        window = padded[example, top : top + HEIGHT, left : left + WIDTH]
        expected.append(window[:, ::-1] if augment.flip and flip < 0.5 else window)
    # With room for a mirrored copy, and without.
    for most_bytes in (1 << 30, 0):
        found = ShiftedRows(pixels, augment, most_bytes)(examples, draws)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.array(expected, np.float32))
    # Some batches together, a few images at a time, of which the last are fewer.
    monkeypatch.setattr(rows, "_CACHED_BYTES", 7 * pixels[0].nbytes)
    for most_bytes in (1 << 30, 0):
        found = ShiftedRows(pixels, augment, most_bytes)(examples.reshape(4, 10), draws.reshape(4, 10, -1))
        np.testing.assert_array_equal(found, np.array(expected, np.float32).reshape(4, 10, HEIGHT, WIDTH, channels))


def test_the_border_counts() -> None:
    assert padded_bytes((5, 4, 6, 3), 1, AugmentSpec(pad_crop=2)) == 5 * 4 * 10 * 3
    assert padded_bytes((5, 4, 6, 3), 4, AugmentSpec()) == 4 * 5 * 4 * 6 * 3
