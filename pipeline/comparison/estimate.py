"""95 % intervals of a mean over seeds, of scores or of Δm, where both images and seeds could have been others.

Images and seeds are crossed: every seed is scored on the same images. A value is then a mean, plus an effect of the
images, plus one of the seed, plus one of both (Brennan, "Generalizability Theory", 2001, chapter 3; Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 2007, on why resampling one side alone is not enough). With N
images and S seeds, and the values of each seed by resamples of the images,

    V   = variance of the mean over seeds, by resamples       = images/N + both/(N S)
    V_s = variance of seed s, by resamples                    = images/N + both/N
    I   = (mean of V_s − V) / (S − 1)                         = both/(N S)
    A   = V − I, at least 0                                   = images/N
    B   = s²/S, s² the sample variance of the values by seed  = seeds/S + both/(N S)

so A + B is the variance of the mean. Few seeds know B badly, and no single quantile of Student's t belongs to the sum:
Cochran's approximation to the Behrens-Fisher problem weighs the two, t' = (A t(f) + B t(S − 1)) / (A + B) (Cochran and
Cox, "Experimental Designs", 1957, section 4.14; Cochran, Biometrics 1964). Some images weigh much more than others, and
N of them know A less well than N alike would: f = 2 N/(k − 1), at most N − 1, where k is the kurtosis of what each
image does to the mean, found by leaving it out. It is 3 for normal effects, for which f is N. (The variance of a sample
variance is σ⁴ (k − 1)/N, and 2 σ⁴/f with f degrees of freedom.) What all this covers: docs/protocol.md.

NumPy and SciPy's quantiles only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
_MOST_SEEDS = 1000
_MOST_IMAGES = 10_000_000
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, low to high.

    image_variance, seed_variance: A and B above, whose sum is the variance of the mean; with one seed B is unknown,
    and 0 here. interaction: the part I of B that more images would lessen as well. degrees: of freedom of A, f
    above. resamples: how many were used.
    """

    mean: float
    low: float
    high: float
    image_variance: float
    seed_variance: float
    interaction: float
    degrees: float
    images: int
    seeds: int
    resamples: int

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return math.sqrt(self.image_variance + self.seed_variance)

    @property
    def verdict(self) -> Verdict:
        """Of a gain, where positive is better: what can be said of its sign."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"

    @property
    def seeds_needed(self) -> int | None:
        """How many seeds let the interval leave 0 out, at this mean and on these images; None where none would.

        None too for one seed, which does not tell how seeds differ.
        """
        if self.seeds == 1:
            return None
        for seeds in range(self.seeds, _MOST_SEEDS + 1):
            part = self.seed_variance * self.seeds / seeds
            if half_width(self.image_variance, part, self.degrees, seeds) < abs(self.mean):
                return seeds
        return None

    @property
    def images_needed(self) -> int | None:
        """How many images like these would do the same with these seeds, in two digits; None where none would."""
        both = min(max(self.interaction, 0.0), self.seed_variance)
        images = self.images
        while images <= _MOST_IMAGES:
            share = self.images / images
            part = self.seed_variance - both + both * share
            if half_width(self.image_variance * share, part, self.degrees / share, self.seeds) < abs(self.mean):
                return _two_digits(images)
            images = max(images + 1, int(images * 1.01))
        return None


def half_width(image_variance: float, seed_variance: float, degrees: float, seeds: int) -> float:
    """Half the 95 % interval of a mean whose variance has these two parts: Cochran's t' times its standard error."""
    variance = image_variance + seed_variance
    if variance == 0:
        return 0.0
    weighted = image_variance * _quantile(degrees)
    if seeds > 1:
        weighted += seed_variance * _quantile(seeds - 1)
    return weighted / math.sqrt(variance)


def interval(
    values: Sequence[float], resampled: np.ndarray, without_each: np.ndarray, images: int | None = None
) -> Estimate | None:
    """The interval of the mean of `values`, one a seed; None where there is no telling.

    resampled: (S, R), the value of each seed in each resample, for which all seeds have the same images; without_each:
    (S, N), the values without one image. images: how many of a split's images count in every value; None: all N.
    Resamples in which one is not defined are left out; with fewer than half of them, or where a single image decides
    whether there is a value, there is no interval.
    """
    images = without_each.shape[1] if images is None else images
    drawn = resampled.shape[1]
    resampled = resampled[:, np.isfinite(resampled).all(0)]
    seeds, resamples = resampled.shape
    if images < 2 or 2 * resamples < drawn or not (np.isfinite(values).all() and np.isfinite(without_each).all()):
        return None
    unbiased = images / (images - 1)  # drawing with replacement sees the variance of N numbers, not of their source
    mean_variance = float(resampled.mean(0).var(ddof=1)) * unbiased
    both = seed_variance = 0.0
    if seeds > 1:
        both = (float(resampled.var(1, ddof=1).mean()) * unbiased - mean_variance) / (seeds - 1)
        seed_variance = float(np.var(values, ddof=1)) / seeds
    image_variance = max(mean_variance - both, 0.0)
    degrees = min(degrees_of_freedom(without_each.mean(0)), images - 1.0)
    mean, half = float(np.mean(values)), half_width(image_variance, seed_variance, degrees, seeds)
    return Estimate(
        mean, mean - half, mean + half, image_variance, seed_variance, both, degrees, images, seeds, resamples
    )


def degrees_of_freedom(without_each: np.ndarray) -> float:
    """How well the variance over images is known, from values (N,) that each lack an image: 1 to N − 1."""
    images, moved = len(without_each), without_each - without_each.mean()
    square = float((moved**2).mean())
    kurtosis = float((moved**4).mean()) / square**2 if square else 3.0
    return min(max(2 * images / max(kurtosis - 1, 1e-9), 1.0), images - 1.0)


def _quantile(degrees: float) -> float:
    """Of Student's t, above which lies half of what the level leaves."""
    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def _two_digits(number: int) -> int:
    """Rounded up to two digits that count: nobody knows more of it."""
    unit = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit
