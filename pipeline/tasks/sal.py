"""Saliency: the probability that a pixel belongs to what catches the eye."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tasks import losses, shared
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.saliency import SaliencyMetric

    return SaliencyMetric()


TASK = Task(
    name="sal",
    title="Saliency",
    unit="%",
    channels=1,
    label_channels=1,
    loss=losses.balanced_bce,
    decode=shared.decode_probability,
    metric=_metric,
    primary_metric="mIoU",
    higher_is_better=True,
    categorical=True,
    resize_prediction="bilinear",
)
