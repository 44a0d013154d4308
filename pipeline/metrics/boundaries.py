"""Boundary maps of one image: thinning, non-maximum suppression and the one-to-one match behind odsF.

NumPy and SciPy only. Counts follow the BSDS benchmark (Martin, Fowlkes, Malik, "Learning to Detect Natural
Image Boundaries", PAMI 2004) with one annotator: a boundary pixel is right when it can be paired, one to one,
with a label pixel within a tolerance. The benchmark's min-cost assignment prices an unmatched pixel so high
that it, too, finds as many pairs as possible; here the largest number of pairs is found exactly (maximum
flow).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import maximum_flow

THRESHOLDS = np.arange(1, 100, dtype=np.float32) / np.float32(100)

NMS_SIGMA = 1.0  # pixels: smoothing of the map whose Hessian tells a ridge's direction

# Neighbours x1..x8 of a pixel, counter-clockwise from the east, as (row, column) steps.
_ALL = 255  # the code of a pixel whose neighbours are all on
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


class BoundaryCounts(NamedTuple):
    """Pixels of one image: matched and predicted at each threshold, (99,) int64, and labelled, one number.

    Pairs are one to one, so `matched` counts right predictions and found label pixels alike.
    """

    matched: np.ndarray
    predicted: np.ndarray
    labelled: int


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


def suppress_non_maxima(probability: np.ndarray, sigma: float = NMS_SIGMA) -> np.ndarray:
    """Zero every pixel of a (H, W) boundary map that is not a maximum across its ridge.

    Across is the eigenvector of largest absolute curvature (Hessian of the map smoothed by a Gaussian of
    `sigma` pixels); the two neighbours at distance 1 are interpolated bilinearly.
    """
    smooth = probability.astype(np.float64)
    yy, xx, xy = (ndimage.gaussian_filter(smooth, sigma, order=order) for order in ((2, 0), (0, 2), (1, 1)))
    # The eigenvector of the larger eigenvalue lies at half the angle of (xx - yy, 2 xy). Where the trace is
    # negative, as on a crest, the other one, at a right angle to it, has the larger magnitude.
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.where(xx + yy < 0, np.pi / 2, 0)
    rows, columns = np.indices(probability.shape)
    step = np.stack([np.sin(angle), np.cos(angle)])
    ahead, behind = (
        ndimage.map_coordinates(smooth, [rows + sign * step[0], columns + sign * step[1]], order=1, mode="nearest")
        for sign in (1, -1)
    )
    return np.where((smooth >= ahead) & (smooth >= behind), probability, 0)


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
