"""The counts behind odsF with NumPy and SciPy, every map by itself: the reference of metrics/boundaries.py.

Thinning looks its decisions up in tables of all 256 neighbourhoods; the one-to-one match is a maximum flow.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow

from pipeline.metrics.boundaries import THRESHOLDS, BoundaryCounts, suppress_non_maxima

# Neighbours x1..x8 of a pixel, counter-clockwise from the east, as (row, column) steps.
_ALL = 255  # the code of a pixel whose neighbours are all on
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """Which neighbourhoods (bit i - 1: x_i) lose their centre, in the first and the second sub-iteration."""
    x = (np.arange(256)[None] >> np.arange(8)[:, None]) & 1 == 1
    x1, x2, x3, x4, x5, x6, x7, x8 = x
    crossings = sum((~a & (b | c)).astype(int) for a, b, c in ((x1, x2, x3), (x3, x4, x5), (x5, x6, x7), (x7, x8, x1)))
    pairs_odd = sum((a | b).astype(int) for a, b in ((x1, x2), (x3, x4), (x5, x6), (x7, x8)))
    pairs_even = sum((a | b).astype(int) for a, b in ((x2, x3), (x4, x5), (x6, x7), (x8, x1)))
    thickness = np.minimum(pairs_odd, pairs_even)
    simple = (crossings == 1) & (thickness >= 2) & (thickness <= 3)
    return simple & ~((x2 | x3 | ~x8) & x1), simple & ~((x6 | x7 | ~x4) & x5)


_DELETABLE = _deletable()


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a boolean (H, W) mask to lines one pixel wide; connectivity is kept.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989 (MATLAB's `bwmorph(..., 'thin')`).
    Only pixels at a border are looked at, since one with all eight neighbours is never deleted: the cost follows the
    mask's area and not, as for whole-image passes, the image's area times the number of iterations.
    """
    padded = np.pad(np.asarray(mask, dtype=np.uint8), 1)
    height, width = mask.shape
    codes = np.zeros_like(padded)
    for bit, (row, column) in enumerate(_NEIGHBOURS):
        codes[1:-1, 1:-1] |= padded[1 + row : 1 + row + height, 1 + column : 1 + column + width] << np.uint8(bit)
    steps = [row * padded.shape[1] + column for row, column in _NEIGHBOURS]
    on, code = padded.reshape(-1), codes.reshape(-1)
    border = np.flatnonzero((on == 1) & (code != _ALL))
    settled = False
    while not settled:
        settled = True
        for table in _DELETABLE:
            delete = table[code[border]]
            deleted, border = border[delete], border[~delete]
            if not deleted.size:
                continue
            settled = False
            on[deleted] = 0
            laid_bare = []
            for bit, step in enumerate(steps):  # a pixel one step back sees the deleted one as its neighbour `bit`
                seen = deleted - step
                before = code[seen]
                laid_bare.append(seen[(before == _ALL) & (on[seen] == 1)])
                code[seen] = before & np.uint8(_ALL - (1 << bit))
            border = np.concatenate([border, *laid_bare])
    return padded[1:-1, 1:-1].astype(bool)


def reachable(label: np.ndarray, max_dist: float) -> sparse.csr_array:
    """(H·W, label pixels) matrix: true where image and label pixel are at most `max_dist` pixels apart."""
    height, width = label.shape
    rows, columns = np.nonzero(label)
    reach = int(max_dist)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    within = dy**2 + dx**2 <= max_dist**2
    rows = rows[:, None] + dy[within]
    columns = columns[:, None] + dx[within]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixel = (rows * width + columns)[inside]
    index = np.nonzero(inside)[0]
    shape = (height * width, len(rows))
    return sparse.coo_array((np.ones(len(pixel), np.bool_), (pixel, index)), shape=shape).tocsr()


def match(boundary: np.ndarray, reach: sparse.csr_array) -> int:
    """Largest number of one-to-one pairs between a (H, W) boundary mask and the label pixels of `reachable`.

    A maximum flow through source -> boundary pixel -> label pixel -> sink, every edge of capacity 1. SciPy's
    `maximum_bipartite_matching` gives the same number, but on contours of a 480x640 image it can take
    minutes.
    """
    graph = reach[np.flatnonzero(boundary)]
    if graph.nnz == 0:
        return 0
    n_boundary, n_label = graph.shape
    first_label, sink = n_boundary + 1, n_boundary + n_label + 1
    heads = [np.arange(1, first_label), graph.indices + first_label, np.full(n_label, sink)]
    # Row starts of the source, the boundary pixels, the label pixels and the sink.
    starts = [[0], n_boundary + graph.indptr, n_boundary + graph.nnz + np.arange(1, n_label + 1)]
    starts.append([n_boundary + graph.nnz + n_label])
    indices = np.concatenate(heads).astype(np.int32)
    indptr = np.concatenate(starts).astype(np.int32)
    capacity = sparse.csr_array((np.ones(len(indices), np.int32), indices, indptr), shape=(sink + 1, sink + 1))
    return int(maximum_flow(capacity, 0, sink, method="dinic").flow_value)


def count_boundaries(
    probability: np.ndarray, label: np.ndarray, valid: np.ndarray, max_dist: float, nms: bool = False
) -> BoundaryCounts:
    """Count matches of one image at every threshold k/100, k = 1 .. 99.

    probability: (H, W) float in [0, 1]. label, valid: (H, W) bool; pixels that are not valid hold no boundary
    on either side. max_dist: tolerance as a share of the image diagonal. nms: suppress non-maxima before
    thresholding. Each map `probability >= k/100` is thinned, then matched with the label as it stands.
    """
    probability = np.where(valid, probability, 0).astype(np.float32)
    if nms:
        probability = suppress_non_maxima(probability)
    # level: how many thresholds a pixel passes, so the map at the k-th threshold is level >= k. Only levels
    # that occur change the map; the thresholds between two of them share one match.
    level = np.searchsorted(THRESHOLDS, probability, side="right")
    reach = reachable(label & valid, max_dist * float(np.hypot(*label.shape)))
    matched = np.zeros(len(THRESHOLDS), np.int64)
    predicted = np.zeros(len(THRESHOLDS), np.int64)
    start = 0
    for stop in np.unique(level[level > 0]):
        boundary = thin(level >= stop)
        matched[start:stop] = match(boundary, reach)
        predicted[start:stop] = boundary.sum()
        start = stop
    return BoundaryCounts(matched, predicted, reach.shape[1])
