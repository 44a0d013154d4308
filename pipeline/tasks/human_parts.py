"""Human part segmentation: body parts (or garments) against the background, class 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tasks import losses, shared
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.segmentation import SegmentationMetric

    return SegmentationMetric(shared.class_names(context), skip_background_images=True)


TASK = Task(
    name="human_parts",
    title="Human parts",
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
