"""Mean intersection over union of class maps, from one confusion matrix pooled over the split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.metrics.base import Metric


class SegmentationMetric(Metric):
    """mIoU, pixel accuracy and the IoU of each class, in per cent.

    `mIoU` averages over the classes that occur in a label or a prediction; `mIoU_absent_zero` over all of
    them, with 0 for those that don't occur (what the released code of the paper reports). `IoU/<class>` is
    there for classes that occur. torchmetrics' own MeanIoU averages over images instead.

    class_names: in index order. skip_background_images: leave out images whose valid label is nothing but
    class 0 (human parts: images without a person). Raises ValueError for a valid label that is not a class.
    """

    def __init__(self, class_names: Sequence[str], skip_background_images: bool = False) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.skip_background_images = skip_background_images
        count = len(self.class_names)
        self.add_state("confusion", torch.zeros(count, count, dtype=torch.long))
        self.add_state("images", torch.zeros((), dtype=torch.long))

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction, target: (B, 1, H, W) class index; valid: (B, 1, H, W) bool."""
        counted = valid & (target > 0) if self.skip_background_images else valid
        scored = counted.flatten(1).any(1)
        valid = valid & scored.view(-1, 1, 1, 1)
        target, prediction = target[valid].long(), prediction[valid].long()
        self.images += scored.sum()
        if target.numel() == 0:
            return
        if target.max() >= len(self.class_names):
            raise ValueError(
                f"label {int(target.max())} is not one of {len(self.class_names)} classes (0 based): "
                "pixels without a class must be marked as not valid by the dataset"
            )
        count = len(self.class_names)
        pairs = torch.bincount(target * count + prediction, minlength=count * count)
        self.confusion += pairs.view(count, count)  # rows: label, columns: prediction

    def compute(self) -> dict[str, float]:
        """Scores in per cent, and the counts of images and pixels scored; NaN where nothing was."""
        confusion = self.confusion.double()
        hit = confusion.diag()
        union = confusion.sum(0) + confusion.sum(1) - hit
        occurs = union > 0
        iou = 100 * hit / union.clamp(min=1)
        pixels = int(self.confusion.sum())
        return {
            "mIoU": iou[occurs].mean().item() if pixels else math.nan,
            "mIoU_absent_zero": iou.mean().item() if pixels else math.nan,
            "pixel_accuracy": 100 * (hit.sum() / pixels).item() if pixels else math.nan,
            **{
                f"IoU/{name}": value
                for name, value, there in zip(self.class_names, iou.tolist(), occurs.tolist(), strict=True)
                if there
            },
            "images": int(self.images),
            "valid_pixels": pixels,
        }
