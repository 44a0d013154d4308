"""Saliency scores in the two conventions of the field, which are not comparable with each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.metrics.base import Metric, binary_label

_PER_IMAGE = torch.arange(4, 19) / 20  # linspace(0.2, 0.9, 15), correctly rounded
_POOLED = torch.arange(1, 20) / 20
_POOLED_BETA2 = 0.3


class SaliencyMetric(Metric):
    """`mIoU` and `maxF` (averages over images) and `maxF_pooled` (over the split's pixels), in per cent.

    mIoU, maxF: 15 thresholds from 0.2 to 0.9, salient where the probability is strictly above. mIoU: mean of
    the images' IoU, at the best threshold. maxF: F1 of the mean precision and the mean recall, at the best
    threshold (Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019). Where neither side of an
    image is salient, IoU is 1, but precision and recall are 0, as is each whose own denominator is empty: the rule of
    the released evaluators (ASTMT's, and those after it).
    maxF_pooled: thresholds 0.05 .. 0.95, at or above, pixels pooled, beta² = 0.3 (ATRC, InvPT).
    Images without a valid pixel are not scored. Raises ValueError for a valid label that is neither 0 nor 1.
    """

    formula = "best_mean"

    iou: Tensor
    precision: Tensor
    recall: Tensor
    pooled_hit: Tensor
    pooled_predicted: Tensor
    pooled_salient: Tensor
    images: Tensor
    valid_pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("iou", "precision", "recall"):
            self.add_state(name, torch.zeros(len(_PER_IMAGE), dtype=torch.float64))
        for name in ("pooled_hit", "pooled_predicted"):
            self.add_state(name, torch.zeros(len(_POOLED), dtype=torch.long))
        for name in ("pooled_salient", "images", "valid_pixels"):
            self.add_state(name, torch.zeros((), dtype=torch.long))

    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction: (1, 1, H, W) probability; target: (1, 1, H, W) 0 or 1; valid: (1, 1, H, W) bool."""
        scored = valid.flatten(1).any(1)
        salient = binary_label(target, valid)[scored].flatten(1)
        prediction, valid = prediction[scored].float().flatten(1), valid[scored].flatten(1)
        self.images += scored.sum()
        self.valid_pixels += valid.sum()
        self.pooled_salient += salient.sum()

        level = torch.bucketize(prediction, _POOLED.to(prediction.device), right=True)
        self.pooled_hit += _passing(level, salient, len(_POOLED)).sum(0)
        self.pooled_predicted += _passing(level, valid, len(_POOLED)).sum(0)

        level = torch.bucketize(prediction, _PER_IMAGE.to(prediction.device), right=False)
        hit = _passing(level, salient, len(_PER_IMAGE))
        predicted = _passing(level, valid, len(_PER_IMAGE))
        labelled = salient.sum(1, keepdim=True)
        union = predicted + labelled - hit
        iou = torch.where(union == 0, 1.0, hit.double() / union.clamp(min=1)).sum(0)
        self.iou += iou
        self.precision += (hit.double() / predicted.clamp(min=1)).sum(0)
        self.recall += (hit.double() / labelled.clamp(min=1)).sum(0)
        self.keep(value=iou, scored=scored.sum())

    @property
    def protocol(self) -> str:
        """See `Metric`."""
        low, high = _PER_IMAGE[0].item(), _PER_IMAGE[-1].item()
        first, last = _POOLED[0].item(), _POOLED[-1].item()
        return (
            f"mIoU and maxF: salient where the probability is above (>) one of {len(_PER_IMAGE)} thresholds from "
            f"{low:g} to {high:g}. mIoU: mean of the images' IoU at the best threshold; maxF: F1 of the images' mean "
            "precision and mean recall at the best threshold. An image where neither label nor prediction is salient "
            "has IoU 1, but precision and recall 0, and each of these is 0 where the prediction (the label) is empty, "
            "as published. maxF_pooled, not "
            f"comparable with maxF: at or above (>=) one of {len(_POOLED)} thresholds from {first:g} to {last:g}, "
            f"pixels pooled over the split, beta² = {_POOLED_BETA2:g}. Thresholds are float32; images without a valid "
            "pixel are not scored."
        )

    def compute(self) -> dict[str, float]:
        """Scores in per cent, and the counts of images and pixels scored; NaN where nothing was."""
        images = int(self.images)
        f1 = _f_score(self.precision / max(images, 1), self.recall / max(images, 1), beta2=1.0)
        pooled = _f_score(
            self.pooled_hit.double() / self.pooled_predicted.clamp(min=1),
            self.pooled_hit.double() / self.pooled_salient.clamp(min=1),
            beta2=_POOLED_BETA2,
        )
        return {
            "mIoU": 100 * (self.iou.max() / images).item() if images else math.nan,
            "maxF": 100 * f1.max().item() if images else math.nan,
            "maxF_pooled": 100 * pooled.max().item() if images else math.nan,
            "images": images,
            "valid_pixels": int(self.valid_pixels),
        }


def _passing(level: Tensor, mask: Tensor, thresholds: int) -> Tensor:
    """(B, P) number of thresholds passed, (B, P) mask -> (B, T) masked pixels above each threshold."""
    bins = thresholds + 1
    image = torch.arange(len(level), device=level.device)[:, None] * bins
    histogram = torch.bincount((level + image)[mask], minlength=len(level) * bins).view(len(level), bins)
    return histogram.flip(1).cumsum(1).flip(1)[:, 1:]


def _f_score(precision: Tensor, recall: Tensor, beta2: float) -> Tensor:
    denominator = beta2 * precision + recall
    return (1 + beta2) * precision * recall / denominator.where(denominator > 0, 1.0)
