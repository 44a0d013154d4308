"""Boundary maps of one image: non-maximum suppression, and the counts behind odsF.

Counts follow the BSDS benchmark (Martin, Fowlkes, Malik, "Learning to Detect Natural Image Boundaries", PAMI 2004)
with one annotator: a boundary pixel is right when it can be paired, one to one, with a label pixel within a tolerance.
The benchmark's min-cost assignment prices an unmatched pixel so high that it, too, finds as many pairs as possible;
here the largest number of pairs is found exactly. `tests/reference/boundaries.py` counts the same with SciPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from pipeline.metrics.bit_maps import count, pack
from pipeline.metrics.matching import Matching
from pipeline.metrics.thinning import thin_bits

THRESHOLDS = np.arange(1, 100, dtype=np.float32) / np.float32(100)

NMS_SIGMA = 1.0  # pixels: smoothing of the map whose Hessian tells a ridge's direction


class BoundaryCounts(NamedTuple):
    """Pixels of one image: matched and predicted at each threshold, (99,) int64, and labelled, one number.

    Pairs are one to one, so `matched` counts right predictions and found label pixels alike.
    """

    matched: np.ndarray
    predicted: np.ndarray
    labelled: int


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
    level = np.searchsorted(THRESHOLDS, probability, side="right").astype(np.uint8)
    label_bits = pack(label & valid)
    matching = Matching(label_bits, max_dist * float(np.hypot(*label.shape)))
    matched = np.zeros(len(THRESHOLDS), np.int64)
    predicted = np.zeros(len(THRESHOLDS), np.int64)
    start = 0
    for stop in np.unique(level[level > 0]).tolist():
        boundary = pack(level >= stop)
        thin_bits(boundary)
        matched[start:stop] = matching.update(boundary)
        predicted[start:stop] = count(boundary)
        start = stop
    return BoundaryCounts(matched, predicted, count(label_bits))
