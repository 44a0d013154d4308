"""Disparity: inverse depth up to a factor, in the unit of the dataset's own labels; larger is nearer, 0 is missing.

Not the task `depth`: that is in metres, falls where this rises, and a zoom changes the two in opposite ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.tasks import losses
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.disparity import DisparityMetric

    return DisparityMetric()


def _decode(prediction: Tensor) -> Tensor:
    return prediction.float()


def _on_zoom(value: Tensor, factor: Tensor) -> Tensor:
    """Twice as large is half as far (see depth's rule), and disparity is inverse depth: it is multiplied."""
    return value * factor.view(-1, 1, 1, 1).to(value)


TASK = Task(
    name="disparity",
    title="Disparity",
    unit="",
    channels=1,
    label_channels=1,
    loss=losses.depth_l1,
    decode=_decode,
    metric=_metric,
    primary_metric="abs_err",
    higher_is_better=False,
    categorical=False,
    resize_prediction="bilinear",
    on_zoom=_on_zoom,
)
