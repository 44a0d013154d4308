"""Depth errors, pooled over the valid pixels of the split (Eigen, Puhrsch, Fergus, NeurIPS 2014)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.metrics.base import Metric

# The logarithm and the ratio need a positive depth: predictions below a millimetre count as one there.
_MIN_DEPTH = 1e-3


class DepthMetric(Metric):
    """`rmse`, `abs_err` (metres), `log_rmse` (natural log), `abs_rel` (a share), `delta<i>` (per cent within 1.25^i).

    RMSE is the root of the mean over all pixels of the split, not the mean of each image's root. A prediction below 0
    counts as 0 (the released evaluators' rule), and below a millimetre as one where a positive depth is needed.
    Raises ValueError for a valid label that is not positive.
    """

    formula = "root_mean_square"

    squared: Tensor
    squared_log: Tensor
    absolute: Tensor
    relative: Tensor
    within: Tensor
    images: Tensor
    valid_pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("squared", "squared_log", "absolute", "relative"):
            self.add_state(name, torch.zeros((), dtype=torch.float64))
        self.add_state("within", torch.zeros(3, dtype=torch.long))
        for name in ("images", "valid_pixels"):
            self.add_state(name, torch.zeros((), dtype=torch.long))

    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction, target: (1, 1, H, W) metres; valid: (1, 1, H, W) bool."""
        self.images += valid.any()
        pixels = valid.sum()
        self.valid_pixels += pixels
        prediction, target = prediction[valid].double().clamp(min=0), target[valid].double()
        if not (target > 0).all():
            raise ValueError(
                f"{int((~(target > 0)).sum())} valid depth labels are not positive: "
                "missing depth must be marked as not valid by the dataset"
            )
        error = prediction - target
        positive = prediction.clamp(min=_MIN_DEPTH)
        ratio = torch.maximum(positive / target, target / positive)
        squared = error.square().sum()
        self.squared += squared
        self.squared_log += (positive.log() - target.log()).square().sum()
        self.absolute += error.abs().sum()
        self.relative += (error.abs() / target).sum()
        self.within += torch.stack([(ratio < 1.25**power).sum() for power in (1, 2, 3)])
        self.keep(squared=squared, pixels=pixels)

    @property
    def protocol(self) -> str:
        """See `Metric`."""
        return (
            "Errors pooled over the split's valid pixels, not averaged by image: rmse in metres, log_rmse in natural "
            "logarithms, abs_err the mean absolute error in metres, abs_rel relative to the label, delta<i> the share "
            "of pixels where max(p/t, t/p) < 1.25^i. A prediction below 0 counts as 0 (the published rule). For "
            f"log_rmse and delta<i> a prediction below {_MIN_DEPTH:g} m counts as {_MIN_DEPTH:g} m."
        )

    def compute(self) -> dict[str, float]:
        """The errors, and the counts of images and pixels scored; NaN where nothing was."""
        count = int(self.valid_pixels)

        def mean(total: Tensor) -> float:
            return total.item() / count if count else math.nan

        return {
            "rmse": math.sqrt(mean(self.squared)),
            "log_rmse": math.sqrt(mean(self.squared_log)),
            "abs_err": mean(self.absolute),
            "abs_rel": mean(self.relative),
            **{f"delta{power}": 100 * mean(within) for power, within in enumerate(self.within, start=1)},
            "images": int(self.images),
            "valid_pixels": count,
        }
