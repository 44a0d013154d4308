"""Angles between predicted and labelled surface normals, pooled over the valid pixels of the split."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.metrics.base import Metric

_LIMITS = (11.25, 22.5, 30.0)
_BINS_PER_DEGREE = 1000


class NormalsMetric(Metric):
    """Mean, median and RMS angle in degrees, and the per cent of angles below 11.25, 22.5 and 30 degrees.

    The median comes from a histogram in bins of 0.001 degrees, so it is within 0.0005 degrees of the exact
    (lower) median in bounded memory; everything else is exact.
    Raises ValueError for a valid label without a direction.
    """

    formula = "mean"

    total: Tensor
    squared: Tensor
    within: Tensor
    histogram: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "squared"):
            self.add_state(name, torch.zeros((), dtype=torch.float64))
        self.add_state("within", torch.zeros(len(_LIMITS), dtype=torch.long))
        self.add_state("histogram", torch.zeros(180 * _BINS_PER_DEGREE, dtype=torch.long))
        self.add_state("images", torch.zeros((), dtype=torch.long))

    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction, target: (1, 3, H, W), of any length; valid: (1, 1, H, W) bool."""
        self.images += valid.any()
        a, b = (
            F.normalize(vectors.movedim(1, -1)[valid.squeeze(1)].double(), dim=-1) for vectors in (prediction, target)
        )
        if not (b.any(-1) & b.isfinite().all(-1)).all():
            raise ValueError(
                "a valid normal has length 0 or is not finite: "
                "missing normals must be marked as not valid by the dataset"
            )
        # Kahan's form: accurate where the arc cosine is not (near 0 and 180 degrees), and 90 degrees for a
        # prediction of length 0, which has no direction.
        angle = torch.rad2deg(2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)))
        total = angle.sum()
        self.total += total
        self.squared += angle.square().sum()
        self.within += torch.stack([(angle < limit).sum() for limit in _LIMITS])
        bins = (angle * _BINS_PER_DEGREE).long().clamp(max=len(self.histogram) - 1)
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))
        self.keep(total=total, pixels=valid.sum())

    @property
    def protocol(self) -> str:
        """See `Metric`."""
        return (
            "Angle in degrees between prediction and label, both scaled to unit length, pooled over the split's valid "
            "pixels: mean, rmse (root of the mean square), within_<a> (share below a) and median (the lower one, to "
            f"{0.5 / _BINS_PER_DEGREE:g} degrees, from a histogram in bins of {1 / _BINS_PER_DEGREE:g}; the rest is "
            "exact). A prediction of length 0 counts as 90 degrees."
        )

    def compute(self) -> dict[str, float]:
        """The statistics, and the counts of images and pixels scored; NaN where nothing was."""
        count = int(self.histogram.sum())

        def mean(total: Tensor) -> float:
            return total.item() / count if count else math.nan

        return {
            "mean": mean(self.total),
            "median": self._median(count) if count else math.nan,
            "rmse": math.sqrt(mean(self.squared)),
            **{f"within_{limit:g}": 100 * mean(within) for limit, within in zip(_LIMITS, self.within, strict=True)},
            "images": int(self.images),
            "valid_pixels": count,
        }

    def _median(self, count: int) -> float:
        half_way = (count + 1) // 2
        index = int(torch.searchsorted(self.histogram.cumsum(0), half_way))
        return (index + 0.5) / _BINS_PER_DEGREE
