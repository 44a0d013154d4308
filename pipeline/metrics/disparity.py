"""Errors of disparity, in the dataset's own unit, pooled over the valid pixels of the split."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.metrics.base import Metric


class DisparityMetric(Metric):
    """`abs_err` (mean absolute error), `abs_rel` (a share of the label) and `rmse`.

    The errors that the balancing literature reports for Cityscapes, as abs err and rel err of "depth". Predictions are
    taken as they are: disparity has no logarithm here, and a negative one is an error like any other.
    Raises ValueError for a valid label that is not positive.
    """

    formula = "mean"

    absolute: Tensor
    relative: Tensor
    squared: Tensor
    images: Tensor
    valid_pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("absolute", "relative", "squared"):
            self.add_state(name, torch.zeros((), dtype=torch.float64))
        for name in ("images", "valid_pixels"):
            self.add_state(name, torch.zeros((), dtype=torch.long))

    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction, target: (1, 1, H, W); valid: (1, 1, H, W) bool."""
        self.images += valid.any()
        pixels = valid.sum()
        self.valid_pixels += pixels
        prediction, target = prediction[valid].double(), target[valid].double()
        if not (target > 0).all():
            raise ValueError(
                f"{int((~(target > 0)).sum())} valid disparity labels are not positive: "
                "missing disparity must be marked as not valid by the dataset"
            )
        error = (prediction - target).abs()
        total = error.sum()
        self.absolute += total
        self.relative += (error / target).sum()
        self.squared += error.square().sum()
        self.keep(total=total, pixels=pixels)

    @property
    def protocol(self) -> str:
        """See `Metric`."""
        return (
            "Errors of normalised disparity (inverse depth, no metres), pooled over the split's valid pixels, not "
            "averaged by image: abs_err the mean absolute error and rmse in the label's unit, abs_rel relative to the "
            "label, where far pixels, of small disparity, weigh most."
        )

    def compute(self) -> dict[str, float]:
        """The errors, and the counts of images and pixels scored; NaN where nothing was."""
        count = int(self.valid_pixels)

        def mean(total: Tensor) -> float:
            return total.item() / count if count else math.nan

        return {
            "abs_err": mean(self.absolute),
            "abs_rel": mean(self.relative),
            "rmse": math.sqrt(mean(self.squared)),
            "images": int(self.images),
            "valid_pixels": count,
        }
