"""Masks as bit maps: 64 pixels of a row in one integer, so that one operation works on all of them.

The bit map of a (H, W) mask is an int64 array of H + 2 rows, each of ceil(W / 64) + 2 words. With this frame of zeros
every pixel of the mask has neighbours. Column c is bit c % 64 of word 1 + c // 64.
"""

from __future__ import annotations

import numpy as np

WORD = 64  # pixels


def pack(mask: np.ndarray) -> np.ndarray:
    """The bit map of a (H, W) bool mask."""
    height, width = mask.shape
    octets = np.packbits(mask, axis=1, bitorder="little")
    bits = np.zeros((height + 2, (-(-width // WORD) + 2) * WORD // 8), np.uint8)
    bits[1:-1, WORD // 8 : WORD // 8 + octets.shape[1]] = octets
    return bits.view("<i8").astype(np.int64, copy=False)


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    """The (H, W) bool mask of a bit map."""
    octets = np.ascontiguousarray(bits[1:-1, 1:-1], dtype="<i8").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=width, bitorder="little").astype(bool)


def count(bits: np.ndarray) -> int:
    """How many pixels of a bit map are on."""
    return int(np.bitwise_count(bits.view(np.uint64)).sum())
