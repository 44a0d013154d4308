"""Thinning of boundary maps to lines one pixel wide.

Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989 (MATLAB's `bwmorph(..., 'thin')`), on bit
maps, compiled by Numba at the first call. The plain form is in `tests/reference/boundaries.py`.

Importing Numba takes most of a second and compiling another, so what does not thin must not import this.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.metrics.bit_maps import pack, unpack


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a boolean (H, W) mask to lines one pixel wide; connectivity is kept."""
    bits = pack(mask)
    thin_bits(bits)
    return unpack(bits, mask.shape[1])


def thin_bits(bits: np.ndarray) -> None:
    """Thin a bit map in place."""
    changed = np.zeros((2, len(bits)), np.int64)
    changed[:, 1:-1] = 1
    _thin(bits.reshape(-1), np.zeros(bits.size, np.int64), changed, bits.shape[1])


# Arrays come from outside and loops are written out: allocation, slices and `any` take Numba a second more to compile.
@njit(nogil=True)
def _thin(bits: np.ndarray, deleted: np.ndarray, changed: np.ndarray, words: int) -> None:
    """Thin flat `bits`, rows of `words`, in place; changed: in which rows each of the last two sub-iterations deleted.

    A sub-iteration looks only at rows beside which one of the two before it deleted something: what its own kind of
    sub-iteration left there, two before, it would leave again.
    """
    last = changed.shape[1] - 1
    kind, idle = 0, 0
    while idle < 2:
        row = 1
        while row < last:
            start = row  # runs of rows: the longer, the better for vector instructions
            while row < last and _any_beside(changed, row):
                row += 1
            if row > start:
                _find(bits, deleted, start * words, row * words, words, kind == 0)
            row += 1
        idle += 1
        for row in range(1, last):
            any_deleted = 0
            for i in range(row * words, (row + 1) * words):
                any_deleted |= deleted[i]
                bits[i] &= ~deleted[i]
                deleted[i] = 0
            changed[kind, row] = any_deleted
            if any_deleted:
                idle = 0
        kind = 1 - kind


@njit(nogil=True)
def _any_beside(changed: np.ndarray, row: int) -> bool:
    found = 0
    for beside in range(row - 1, row + 2):
        found |= changed[0, beside] | changed[1, beside]
    return found != 0


@njit(nogil=True)
def _find(bits: np.ndarray, deleted: np.ndarray, start: int, stop: int, words: int, first: bool) -> None:
    """What a sub-iteration, the first or the second, deletes of the words from `start` to `stop`, whole rows.

    x1..x8 are the paper's: the neighbours, anticlockwise from the east, which is the next higher bit.
    """
    all_but_sign = 0x7FFFFFFFFFFFFFFF  # >> fills in with copies of the sign
    # Views that start at the same column: an index with a term of unknown sign would bar vector instructions.
    above, here, below, out = bits[start - words :], bits[start:], bits[start + words :], deleted[start:]
    for i in range(1, stop - start - 1):
        x3, centre, x7 = above[i], here[i], below[i]
        x2, x4 = x3 >> 1 & all_but_sign | above[i + 1] << 63, x3 << 1 | above[i - 1] >> 63 & 1
        x1, x5 = centre >> 1 & all_but_sign | here[i + 1] << 63, centre << 1 | here[i - 1] >> 63 & 1
        x8, x6 = x7 >> 1 & all_but_sign | below[i + 1] << 63, x7 << 1 | below[i - 1] >> 63 & 1
        # Exactly one crossing from off to on around the pixel.
        a, b, c, d = ~x1 & (x2 | x3), ~x3 & (x4 | x5), ~x5 & (x6 | x7), ~x7 & (x8 | x1)
        one_crossing = (a ^ b ^ c ^ d) & ~(a & b | c & d)
        # Thickness, 2 or 3: of four pairs of neighbours, how many have one that is on; the lesser of two ways to pair.
        a, b, c, d = x1 | x2, x3 | x4, x5 | x6, x7 | x8
        two_odd, four_odd = (a | b) & (c | d) | a & b | c & d, a & b & c & d
        a, b, c, d = x2 | x3, x4 | x5, x6 | x7, x8 | x1
        two_even, four_even = (a | b) & (c | d) | a & b | c & d, a & b & c & d
        stays = (x2 | x3 | ~x8) & x1 if first else (x6 | x7 | ~x4) & x5
        out[i] = centre & one_crossing & two_odd & two_even & ~(four_odd & four_even) & ~stays
