"""Monocular depth: distance along the optical axis, in metres."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.tasks import losses
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.depth import DepthMetric

    return DepthMetric()


def _decode(prediction: Tensor) -> Tensor:
    return prediction.float()


def _on_zoom(value: Tensor, factor: Tensor) -> Tensor:
    """Twice as large is half as far: depth is divided by the factor (the published recipe).

    Exact for one reading of a picture enlarged by s: the scene shrunk to 1/s about the camera, so that each point stays
    on its ray, seen with a focal length s times as long in pixels. That turns no surface: normals have no such rule.
    """
    return value / factor.view(-1, 1, 1, 1).to(value)


TASK = Task(
    name="depth",
    title="Depth",
    unit="m",
    channels=1,
    label_channels=1,
    loss=losses.depth_l1,
    decode=_decode,
    metric=_metric,
    primary_metric="rmse",
    higher_is_better=False,
    categorical=False,
    resize_prediction="bilinear",
    on_zoom=_on_zoom,
)
