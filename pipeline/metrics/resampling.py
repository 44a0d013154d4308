"""Scores recomputed from what each image adds to a metric's sums, for any weights of the images.

A score that is pooled over a split is a function of sums over its images: counts of a confusion matrix, squared errors,
pairs of edge pixels by threshold. To draw images with replacement (Efron, "Bootstrap methods: another look at the
jackknife", Annals of Statistics 1979) is to weigh them by how often each was drawn, so a pooled score is resampled as
one: weights (R, N) times statistics (N, D) are R sums, and each gives a score.

NumPy only. N images, D numbers an image, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 4000
SEED = 20261128  # of the one stream that draws images: who has as many images has the same draws

Statistics = Mapping[str, np.ndarray]
"""What each image adds to a metric's sums, by name: (N,) or (N, D), int64 or float64."""


def mean_iou(hit: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """mIoU in per cent over the classes that occur, from pixels of each class, (R, K)."""
    union = labelled + predicted - hit
    occurs = union > 0
    classes = occurs.sum(1)
    total = np.divide(100.0 * hit, union, out=np.zeros_like(hit), where=occurs).sum(1)
    return _ratio(total, classes)


def mean(total: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean of what was summed, (R,), over the pixels, (R,)."""
    return _ratio(total, pixels)


def root_mean_square(squared: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Root of the mean of squares that were summed, (R,), over the pixels, (R,)."""
    return np.sqrt(_ratio(squared, pixels))


def best_mean(value: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Mean over the scored images, in per cent, at the best of T thresholds: value (R, T), scored (R,)."""
    return 100.0 * _ratio(value.max(1), scored)


def best_f_measure(matched: np.ndarray, predicted: np.ndarray, labelled: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """F-measure, in per cent, at the best of T thresholds: matched, predicted (R, T), labelled, scored (R,)."""
    f_measure = 200.0 * matched / np.maximum(predicted + labelled[:, None], 1.0)
    return np.where(scored > 0, f_measure.max(1), np.nan)


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "mean_iou": mean_iou,
    "mean": mean,
    "root_mean_square": root_mean_square,
    "best_mean": best_mean,
    "best_f_measure": best_f_measure,
}
"""How a primary metric follows from the sums of its statistics, by name, to scores (R,), NaN where nothing was scored.

A metric names its own as `formula`, and calls its statistics as that calls its arguments."""

_BY_THRESHOLD = {"best_mean": ("value",), "best_f_measure": ("matched", "predicted")}
"""Of formulas that choose one of T thresholds: the statistics that are (N, T)."""


def draw(images: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each image occurs in each resample: (R, N) float64 whole numbers, rows that sum to N.

    The same numbers for every caller, so that runs, baselines and seeds are weighed alike: the comparison is paired.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = np.empty((resamples, images))
    for row in drawn:
        row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
    return drawn


def resampled_scores(weights: np.ndarray, statistics: Statistics, formula: str) -> np.ndarray:
    """The score (R,) of every row of weights (R, N), each N in sum; NaN where a resample has nothing to score.

    The sums are exact, so that no bit depends on the order in which a machine adds. Raises KeyError for a formula that
    is none.
    """
    sums = {}
    for name, values in statistics.items():
        whole, step = _whole(values)
        sums[name] = (weights @ whole) * step
    return FORMULAS[formula](**sums)


def scores_without_each(statistics: Statistics, formula: str) -> np.ndarray:
    """The score (N,) of all images but one, for each that is left out (the jackknife's)."""
    sums = {}
    for name, values in statistics.items():
        whole, step = _whole(values)
        sums[name] = (whole.sum(0) - whole) * step
    return FORMULAS[formula](**sums)


def scores_of_each(statistics: Statistics, formula: str) -> np.ndarray:
    """The score (N,) of each image by itself, NaN for one that has nothing to score.

    A metric that chooses a threshold takes the one that is best for the split: an image alone would choose its own.
    """
    if names := _BY_THRESHOLD.get(formula):
        count = statistics[names[0]].shape[1]
        at_each = [
            {name: values[:, [i]] if name in names else values for name, values in statistics.items()}
            for i in range(count)
        ]
        statistics = max(at_each, key=lambda each: score(each, formula))
    return FORMULAS[formula](**{name: values.astype(np.float64) for name, values in statistics.items()})


def score(statistics: Statistics, formula: str) -> float:
    """The score of the images as they are, each once."""
    images = len(next(iter(statistics.values())))
    return float(resampled_scores(np.ones((1, images)), statistics, formula)[0])


def resampled_performance(
    scores: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray], higher_is_better: Mapping[str, bool]
) -> np.ndarray:
    """Δm in percent of each resample, (R,), as `delta.multi_task_performance`; NaN where a baseline is not above 0."""
    gains = []
    for task, score_of in scores.items():
        baseline = baselines[task]
        gain = np.full(baseline.shape, np.nan)
        np.divide(score_of - baseline, baseline, out=gain, where=baseline > 0)
        gains.append(gain if higher_is_better[task] else -gain)
    return 100.0 * np.mean(gains, axis=0)


def _whole(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Values as whole numbers of a step, which is a power of two, and the step: float64 adds those without rounding.

    Counts are whole numbers already. Others lose less than 1e-10 of a sum: N² times 2^-52 of the largest value.
    """
    if not np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float64), 1.0
    largest = len(values) * float(np.abs(values).max(initial=0.0))
    step = 2.0 ** (math.frexp(largest)[1] - 52) if largest else 1.0
    return np.rint(values / step), step


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
