"""Checksums of what is joined, against those of google-crc32c over all bytes."""

from itertools import pairwise

import google_crc32c
import numpy as np
import pytest

from storage.joined_crc import joined_crc


@pytest.mark.parametrize(
    "lengths", [[], [0], [9], [5, 0, 7], [1] * 40, [4095, 4096, 4097], [70_000, 16, 0, 1 << 22, 3], [8] * 5000]
)
def test_the_checksum_of_joined_bytes_is_that_of_all(lengths: list[int]) -> None:
    data = np.random.default_rng(3).bytes(sum(lengths))
    ends = np.cumsum([0, *lengths])
    pieces = [data[start:end] for start, end in pairwise(ends)]
    crcs = [google_crc32c.value(piece) for piece in pieces]
    assert joined_crc(crcs, lengths) == google_crc32c.value(data)


def test_long_pieces_are_joined_too() -> None:
    """Beyond 32 bits of length, where bytes cannot be tried: twice, as one piece and in two steps."""
    far = 5 << 40
    behind = joined_crc([0x12345678, 0], [1, far])
    assert joined_crc([0x12345678, 0, 0], [1, far - 3, 3]) == behind == joined_crc([behind, 0], [1, 0])
    assert joined_crc([0x12345678, 0], [1, far + 1]) != behind
