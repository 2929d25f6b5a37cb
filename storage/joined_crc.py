"""The crc32c of bytes that lie one behind the other, from the crc32c of each: nothing is read a second time.

Polynomials over GF(2), as zlib's crc32_combine has them: appending n bytes multiplies a checksum by x^(8n) modulo the
polynomial of crc32c (Castagnoli; RFC 3720, appendix B.4), after which that of the appended bytes is added. Here for all
pieces at once: each is multiplied by the power for the bytes behind it. Bit 31 is the coefficient of x^0.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_BITS = 32
_ONE = 1 << 31
#: The bytes behind a piece are a number with so many bits a digit. For each digit there is a table of powers.
_DIGIT_BITS = 14

Polynomials = NDArray[np.uint32]


def joined_crc(crcs: Sequence[int], lengths: Sequence[int]) -> int:
    """The crc32c of everything, from the crc32c and the length in bytes of each piece in order."""
    behind = np.zeros(len(lengths), np.int64)
    behind[:-1] = np.cumsum(np.array(lengths[:0:-1], np.int64))[::-1]
    shifted = np.array(crcs, np.uint32)
    digit = 0
    while behind.any():
        shifted = _times(shifted, _table(digit)[0][behind & (1 << _DIGIT_BITS) - 1])
        behind >>= _DIGIT_BITS
        digit += 1
    return int(np.bitwise_xor.reduce(shifted))


@lru_cache
def _table(digit: int) -> tuple[Polynomials, Polynomials]:
    """x^(8 d 2^(digit bits)) for each value d of the digit, and the power behind the last."""
    step = _table(digit - 1)[1] if digit else np.array([_ONE >> 8], np.uint32)  # x^8
    low, step = _doubled(step)
    high, step = _doubled(step)
    return _times(np.tile(low, len(high)), np.repeat(high, len(low))), step


def _doubled(step: Polynomials) -> tuple[Polynomials, Polynomials]:
    """The powers of `step` for each value of half of a digit, and the power behind the last."""
    powers = np.array([_ONE], np.uint32)
    for _ in range(_DIGIT_BITS // 2):
        products = _times(np.concatenate([powers, step]), step)
        powers, step = np.concatenate([powers, products[:-1]]), products[-1:]
    return powers, step


def _times(left: Polynomials, right: Polynomials) -> Polynomials:
    """The products modulo the polynomial, one by one."""
    left, right = (np.array(each, np.uint32) for each in np.broadcast_arrays(left, right))
    product, chosen, carry = (np.zeros_like(left) for _ in range(3))
    signed_left, signed_chosen = left.view(np.int32), chosen.view(np.int32)
    for _ in range(_BITS):
        # The sign bit of `left` becomes all 32 bits: the coefficient of the power that `right` stands for by now.
        np.right_shift(signed_left, 31, out=signed_chosen)
        chosen &= right
        product ^= chosen
        left <<= 1
        np.bitwise_and(right, 1, out=carry)
        carry *= np.uint32(_POLYNOMIAL)
        right >>= 1
        right ^= carry
    return product
