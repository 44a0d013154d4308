"""Disparity: inverse depth up to a factor, in the unit of the dataset's own labels; larger is nearer, 0 is missing.

Not the task `depth`: that is in metres, falls where this rises, and a zoom changes the two in opposite ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pipeline import losses
from pipeline.paint import paint_disparity
from pipeline.tasks.shared import Labels, require_pixels
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric

_STEPS = 2**16 - 1  # labels are 16-bit codes divided by it, so that the median is exact in these steps


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.disparity import DisparityMetric

    return DisparityMetric()


def _decode(prediction: Tensor) -> Tensor:
    return prediction.float()


def _on_zoom(value: Tensor, factor: Tensor) -> Tensor:
    """Twice as large is half as far (see depth's rule), and disparity is inverse depth: it is multiplied."""
    return value * factor.view(-1, 1, 1, 1).to(value)


def _median(labels: Labels, context: TaskContext) -> np.ndarray:
    """The (lower) median of valid pixels, () float32: no constant has a smaller absolute error.

    To 1/65535, for labels in 0..1. Raises ValueError if none is valid.
    """
    counts = np.zeros(_STEPS + 1, np.int64)
    for value, valid in labels:
        codes = np.rint(value[valid].astype(np.float64) * _STEPS).astype(np.int64)
        counts += np.bincount(codes.clip(0, _STEPS), minlength=len(counts))
    require_pixels(counts.sum())
    return np.asarray(np.searchsorted(counts.cumsum(), (counts.sum() + 1) // 2) / _STEPS, np.float32)


TASK = Task(
    name="disparity",
    title="Disparity",
    unit="",
    channels=1,
    label_channels=1,
    loss=losses.depth_l1,
    decode=_decode,
    metric=_metric,
    headline="abs_err",
    higher_is_better=False,
    categorical=False,
    resize_prediction="bilinear",
    on_zoom=_on_zoom,
    paint=paint_disparity,
    measured=True,
    trivial=_median,
)
