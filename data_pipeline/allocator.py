"""Memory: the C library's allocator, told to keep what is freed, and arrays that TensorFlow takes over.

The next step, or the next image, wants the same memory.
"""

import ctypes
import logging
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

log = logging.getLogger(__name__)

# From malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
#: What glibc takes at most for the size from which memory is mapped, and given back, by itself.
_LARGEST_KEPT_BYTES = 32 << 20
_PAD_BYTES = 64 << 20
_KEPT_BYTES = 1 << 30
_ALIGNMENT = 64


def keep_freed_memory() -> None:
    """Give freed memory back only beyond a gibibyte.

    glibc gives back the top of its heap as soon as it is free, and a step frees and wants it again: of two workers a
    tenth of all CPU time went into clearing pages (measured: 57 of 455 ticks before, 3 of 460 after).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library: its defaults stay
    for option, value in (
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _PAD_BYTES),
        (_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES),
    ):
        if not mallopt(option, value):
            log.info("mallopt(%d, %d) was refused", option, value)


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An empty array that TensorFlow takes over, instead of copying it: it begins where a tensor may begin."""
    num_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
    block = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + num_bytes].view(dtype).reshape(shape)
