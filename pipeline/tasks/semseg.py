"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tasks import losses, shared
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.segmentation import SegmentationMetric

    return SegmentationMetric(shared.class_names(context))


TASK = Task(
    name="semseg",
    title="Semantic segmentation",
    unit="%",
    channels=None,
    label_channels=1,
    loss=losses.cross_entropy,
    decode=shared.decode_classes,
    metric=_metric,
    primary_metric="mIoU",
    higher_is_better=True,
    categorical=True,
    resize_prediction="nearest",
)
