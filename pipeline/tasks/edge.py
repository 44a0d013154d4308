"""Edges: the probability that a pixel lies on a boundary."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.tasks import losses, shared
from pipeline.tasks.spec import Task, TaskContext

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


def _metric(context: TaskContext) -> Metric:
    from pipeline.metrics.edges import EdgeMetric

    return EdgeMetric(context.edge_max_dist, context.edge_nms)


TASK = Task(
    name="edge",
    title="Edges",
    unit="%",
    channels=1,
    label_channels=1,
    loss=partial(losses.balanced_bce, positive_weight=0.95),
    decode=shared.decode_probability,
    metric=_metric,
    primary_metric="odsF",
    higher_is_better=True,
    categorical=True,
    resize_label="max",
    resize_prediction="bilinear",
)
