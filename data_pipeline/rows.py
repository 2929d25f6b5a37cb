"""Windows of images that are kept in memory, a row at a time: pad and crop, and flip, without a look at single pixels.

A row of a window lies in one piece in a row of its image, so a batch is gathered as a few thousand pieces instead of a
hundred thousand pixels. Pure NumPy: the rows overlap, which no tensor can say.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from conf.schema import AugmentSpec
from data_pipeline.allocator import aligned
from data_pipeline.augment.columns import FLIP, PAD_X, PAD_Y
from data_pipeline.order import Places

Images = NDArray[np.generic]
_CACHED_BYTES = 512 << 10


class ShiftedRows:
    """Images [n, height, width, channels] of a set, cropped out of their reflected border and mirrored as drawn.

    The same pixels as `augment.shift` finds. They are kept with their borders left and right and, where that is no more
    than `most_bytes`, a second time mirrored.
    """

    def __init__(self, pixels: Images, augment: AugmentSpec, most_bytes: int):
        self._flip, self._pad = augment.flip, augment.pad_crop
        self.shape, self._num_images = pixels.shape[1:], len(pixels)
        self._mirrored = augment.flip and 2 * padded_bytes(pixels.shape, pixels.itemsize, augment) <= most_bytes
        height, width, channels = self.shape
        self._width = width + 2 * self._pad
        kept = np.empty((1 + self._mirrored, len(pixels), height, self._width, channels), pixels.dtype)
        np.take(pixels, _reflected(width, self._pad), axis=2, out=kept[0])
        if self._mirrored:
            kept[1] = kept[0, :, :, ::-1]
        pixel, row = channels * pixels.itemsize, width * channels * pixels.itemsize
        # Each pixel begins a row: that of the window whose left end it is.
        num_rows = (kept.nbytes - row) // pixel + 1
        self._rows = as_strided(kept.reshape(-1).view(np.uint8)[:row].view(f"V{row}"), (num_rows,), (pixel,))
        self._pixel, self._type = np.dtype(f"V{pixel}"), pixels.dtype

    def __call__(self, examples: Places, draws: NDArray[np.float32]) -> NDArray[np.float32]:
        """The images of these numbers [..., n], changed as their draws [..., n, columns] say; float32."""
        height, width, channels = self.shape
        images = aligned((examples.size, height, width, channels), np.float32)
        firsts, mirrored = self._first_rows(examples.reshape(-1), draws.reshape(-1, draws.shape[-1]))
        # A few at a time: what was gathered is still in the processor's cache when it becomes float32.
        at_once = max(1, _CACHED_BYTES // (height * width * self._pixel.itemsize))
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            self._fill(images[part], firsts[part], mirrored[part])
        return images.reshape(*examples.shape, height, width, channels)

    def _first_rows(self, examples: Places, draws: NDArray[np.float32]) -> tuple[Places, NDArray[np.bool_]]:
        """Which of all rows become those of each image, [n, height], and which images are mirrored afterwards."""
        y, x = (self._offsets(draws[:, column]) for column in (PAD_Y, PAD_X))
        mirrored = draws[:, FLIP] < 0.5 if self._flip else np.zeros(len(examples), bool)
        if self._mirrored:
            examples = examples + self._num_images * mirrored
            x = np.where(mirrored, 2 * self._pad - x, x)
        height = self.shape[0]
        source = _reflected(height, self._pad)[np.arange(height) + y[:, None]]
        source += (examples * height)[:, None]
        source *= self._width
        source += x[:, None]
        return source, mirrored & (not self._mirrored)

    def _fill(self, images: NDArray[np.float32], rows: Places, mirrored: NDArray[np.bool_]) -> None:
        found = self._rows[rows]
        if mirrored.any():
            pixels = found.view(self._pixel).reshape(-1, *self.shape[:2])
            pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        np.copyto(images, found.view(self._type).reshape(images.shape))

    def _offsets(self, draws: NDArray[np.float32]) -> Places:
        return np.floor(draws * np.float32(2 * self._pad + 1)).astype(np.int64)


def padded_bytes(shape: tuple[int, ...], itemsize: int, augment: AugmentSpec) -> int:
    """What images [n, height, width, channels] take up with their borders left and right."""
    count, height, width, channels = shape
    return count * height * (width + 2 * augment.pad_crop) * channels * itemsize


def _reflected(side: int, pad: int) -> Places:
    """Which row or column of an image each is of the image with a reflected border: [side + 2 pad]."""
    places = np.abs(np.arange(-pad, side + pad))
    return (side - 1) - np.abs((side - 1) - places)
