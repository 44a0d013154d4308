"""Mean intersection over union of class maps, from one confusion matrix pooled over the split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.metrics.base import Metric

_MAX_CLASSES = 256


class SegmentationMetric(Metric):
    """mIoU, pixel accuracy and the IoU of each class, in per cent.

    `mIoU` averages over the classes that occur in a label or a prediction; `mIoU_absent_zero` over all of
    them, with 0 for those that don't occur (what the released code of the paper reports). `IoU/<class>` is
    there for classes that occur. torchmetrics' own MeanIoU averages over images instead.

    class_names: in index order. skip_background_images: leave out images whose valid label is nothing but
    class 0 (human parts: images without a person). Raises ValueError for a valid label or prediction that is not a
    class, and for more classes than the uint8 of decoded class maps can tell apart.
    """

    formula = "mean_iou"

    confusion: Tensor
    images: Tensor

    def __init__(self, class_names: Sequence[str], skip_background_images: bool = False) -> None:
        super().__init__()
        if not 1 <= len(class_names) <= _MAX_CLASSES:
            raise ValueError(f"{len(class_names)} classes: class maps are uint8, so 1 to {_MAX_CLASSES} are possible")
        self.class_names = tuple(class_names)
        self.skip_background_images = skip_background_images
        count = len(self.class_names)
        self.add_state("confusion", torch.zeros(count, count, dtype=torch.long))
        self.add_state("images", torch.zeros((), dtype=torch.long))

    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """prediction, target: (1, 1, H, W) class index; valid: (1, 1, H, W) bool."""
        counted = valid & (target > 0) if self.skip_background_images else valid
        scored = counted.any()
        valid = valid & scored
        target, prediction = target[valid].long(), prediction[valid].long()
        self.images += scored
        if target.numel():
            self._require_classes("label", target, "pixels without a class must be marked as not valid by the dataset")
            self._require_classes("prediction", prediction, "a network has one channel for each class of the dataset")
        count = len(self.class_names)
        pairs = torch.bincount(target * count + prediction, minlength=count * count)
        pairs = pairs.view(count, count)  # rows: label, columns: prediction
        self.confusion += pairs
        self.keep(hit=pairs.diag(), labelled=pairs.sum(1), predicted=pairs.sum(0))

    def _require_classes(self, what: str, index: Tensor, remedy: str) -> None:
        low, high = (int(bound) for bound in index.aminmax())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{what} {low if low < 0 else high} is not one of {len(self.class_names)} classes (0 based): {remedy}"
            )

    @property
    def protocol(self) -> str:
        """See `Metric`."""
        text = (
            "One confusion matrix of the split's valid pixels. mIoU: mean over the classes that occur in a label or a "
            f"prediction; mIoU_absent_zero: over all {len(self.class_names)}, those that don't occur counting as 0 "
            "(the released code's rule); pixel_accuracy: share of pixels that are right."
        )
        if self.skip_background_images:
            text += f" Images whose valid label is nothing but {self.class_names[0]}, or nothing at all, are skipped."
        return text

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
