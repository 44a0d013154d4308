"""Surface normals: unit vectors in the camera frame, x right, y up, z towards the camera.

A zoom changes none of them, as in the published recipe: it is read as depth's `_on_zoom` says. The other reading, the
same camera before a scene of 1/s the depth, has that scene squashed along the axis, and its surfaces would lean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.tasks import losses
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.normals import NormalsMetric

    return NormalsMetric()


def _decode(prediction: Tensor) -> Tensor:
    return F.normalize(prediction.float(), dim=1)


def _on_flip(value: Tensor) -> Tensor:
    """A mirrored scene: left is right."""
    x, y, z = value.unbind(1)
    return torch.stack([-x, y, z], dim=1)


def _on_rotate(value: Tensor, angle: Tensor) -> Tensor:
    """The image plane's axes are x right and y up, so the content's turn is the vectors' turn about z."""
    x, y, z = value.unbind(1)
    cos, sin = (f(angle).view(-1, 1, 1).to(value) for f in (torch.cos, torch.sin))
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1)


TASK = Task(
    name="normals",
    title="Surface normals",
    unit="°",
    channels=3,
    label_channels=3,
    loss=losses.normals_l1,
    decode=_decode,
    metric=_metric,
    primary_metric="mean",
    higher_is_better=False,
    categorical=False,
    resize_prediction="bilinear",
    on_flip=_on_flip,
    on_rotate=_on_rotate,
)
