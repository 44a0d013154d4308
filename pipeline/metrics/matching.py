"""The largest one-to-one matching between boundary pixels and label pixels.

A bipartite graph joins each boundary pixel with the label pixels within a tolerance. It is never stored: what is within
reach of a pixel is read from a bit map, row by row. Augmenting paths are found by breadth-first searches, one from each
pixel without a partner. Where a search fails, no later path leads through what it visited, so no search goes there
again (Kuhn, "The Hungarian method for the assignment problem", 1955). Numba compiles it at the first call. The plain
form, a maximum flow, is in `tests/reference/boundaries.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.metrics.bit_maps import WORD, count, pack

_NONE = -1
_SHORT = 256  # pixels that a search may have visited and still be forgotten: see `_match`


class Matching:
    """Matches one label with any number of boundary maps, all as bit maps; similar ones in sequence cost least.

    max_dist: tolerance in pixels. A pixel's number is that of its bit in the flat bit map; a partner is such a number.
    """

    def __init__(self, label: np.ndarray, max_dist: float) -> None:
        self._label = label
        self._free_label = label.copy()
        self._paired = np.zeros_like(label)  # boundary pixels that have a partner
        self._of_boundary, self._of_label = np.full((2, label.size * WORD), _NONE, np.int64)  # partners
        self._scratch = np.empty((3, label.size * WORD), np.int64)
        reach = int(max_dist)
        rows = sorted(range(-min(reach, len(label)), min(reach, len(label)) + 1), key=abs)
        half_widths = [min(math.isqrt(int(max_dist**2) - row**2), reach) for row in rows]
        self._disc = np.array([rows, half_widths], np.int64).T  # the nearest row first

    def update(self, boundary: np.ndarray) -> int:
        """Match this boundary map; return the largest number of pairs."""
        _part(self._paired & ~boundary, self._of_boundary, self._free_label, self._of_label, self._scratch[0])
        free = boundary & ~self._paired
        one = boundary, free, self._of_boundary
        other = self._label, self._free_label, self._of_label
        if count(free) > count(self._free_label):  # searches start where fewer pixels are free
            one, other = other, one
        _match(one[1], one[2], *other, np.empty_like(boundary), self._disc, *self._scratch)
        self._paired = boundary & ~free
        return count(self._paired)


def match(boundary: np.ndarray, label: np.ndarray, max_dist: float) -> int:
    """Largest number of one-to-one pairs of (H, W) boundary and label pixels at most `max_dist` pixels apart."""
    return Matching(pack(label), max_dist).update(pack(boundary))


@njit(nogil=True)
def _lowest(word: int) -> int:
    """The number of the lowest bit that is set: alone, a power of two, it is exact as a float."""
    return math.frexp(float(word & -word))[1] - 1


@njit(nogil=True)
def _flip(bits: np.ndarray, pixel: int) -> None:
    bits[pixel // (bits.shape[1] * WORD), pixel // WORD % bits.shape[1]] ^= 1 << pixel % WORD


@njit(nogil=True)
def _pixels(bits: np.ndarray, found: np.ndarray) -> int:
    """Put the numbers of the pixels that are on into `found`; return how many they are."""
    n = 0
    for row in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            word = bits[row, i]
            while word:
                found[n] = (row * bits.shape[1] + i) * WORD + _lowest(word)
                n += 1
                word &= word - 1
    return n


@njit(nogil=True)
def _part(
    lost: np.ndarray, of_boundary: np.ndarray, free_label: np.ndarray, of_label: np.ndarray, todo: np.ndarray
) -> None:
    """Take the partners of the boundary pixels `lost` from them."""
    for i in range(_pixels(lost, todo)):
        label = of_boundary[todo[i]]
        of_boundary[todo[i]] = of_label[label] = _NONE
        _flip(free_label, label)


@njit(nogil=True)
def _within_reach(bits: np.ndarray, pixel: int, start: int, disc: np.ndarray) -> tuple[int, int]:
    """A pixel of the bit map within reach of `pixel`, in rows of the disc from `start` on, and its row; or _NONE."""
    words = bits.shape[1]
    row, column = pixel // (words * WORD), pixel % (words * WORD)
    for place in range(start, len(disc)):
        y = row + disc[place, 0]
        if y < 0 or y >= len(bits):
            continue
        left, right = max(column - disc[place, 1], 0), min(column + disc[place, 1], words * WORD - 1)
        for i in range(left // WORD, right // WORD + 1):
            low, high = max(left - i * WORD, 0), min(right - i * WORD, WORD - 1)
            inside = bits[y, i] & ((2 << high) - (1 << low))
            if inside:
                return (y * words + i) * WORD + _lowest(inside), place
    return _NONE, len(disc)


@njit(nogil=True)
def _match(
    free: np.ndarray,
    partners: np.ndarray,
    others: np.ndarray,
    free_others: np.ndarray,
    partners_of_others: np.ndarray,
    unvisited: np.ndarray,
    disc: np.ndarray,
    todo: np.ndarray,
    queue: np.ndarray,
    via: np.ndarray,
) -> None:
    """Give partners among `others` to as many `free` pixels of this side as can be; who has one is no longer free.

    A search that succeeds after little is forgotten, for the next to pass there. What a longer one visited stays
    visited, and pixels whose searches fail after that search again in another pass: so no pass takes longer than in
    proportion to its pixels.
    """
    n = 0
    for i in range(_pixels(free, todo)):
        other, _ = _within_reach(free_others, todo[i], 0, disc)
        if other == _NONE:
            todo[n] = todo[i]
            n += 1
        else:
            partners[todo[i]], partners_of_others[other] = other, todo[i]
            _flip(free, todo[i])
            _flip(free_others, other)
    again = True
    while again:
        again = False
        left = 0
        for row in range(others.shape[0]):
            for i in range(others.shape[1]):
                unvisited[row, i] = others[row, i]
        for i in range(n):
            end, queued = _search(todo[i], unvisited, partners_of_others, disc, queue, via)
            if end == _NONE:
                if again:
                    todo[left] = todo[i]
                    left += 1
                continue
            _flip(free, todo[i])
            _flip(free_others, end)
            if queued > _SHORT:
                again = True
            else:
                _flip(unvisited, end)
                for j in range(1, queued):
                    _flip(unvisited, partners[queue[j]])
            while end != _NONE:  # back along the path: each pixel takes the other through which the search went on
                pixel = via[end]
                partners_of_others[end] = pixel
                partners[pixel], end = end, partners[pixel]
        n = left


@njit(nogil=True)
def _search(
    root: int,
    unvisited: np.ndarray,
    partners_of_others: np.ndarray,
    disc: np.ndarray,
    queue: np.ndarray,
    via: np.ndarray,
) -> tuple[int, int]:
    """Where a shortest augmenting path from `root` through unvisited others ends, or _NONE; and the queue's length.

    queue: the pixels of the root's side that were visited; via: from which of them each other was.
    """
    queue[0] = root
    head, tail = 0, 1
    while head < tail:
        pixel, place = queue[head], 0
        head += 1
        while True:
            other, place = _within_reach(unvisited, pixel, place, disc)
            if other == _NONE:
                break
            _flip(unvisited, other)
            via[other] = pixel
            if partners_of_others[other] == _NONE:
                return other, tail
            queue[tail] = partners_of_others[other]
            tail += 1
    return _NONE, tail
