"""The declaration of a task: everything the pipeline needs to know about it, in one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from pipeline.metrics.base import Metric


@dataclass(frozen=True)
class TaskContext:
    """What a task takes from the dataset, and the choices of scoring that concern it.

    classes: names in index order, None for a task without classes.
    edge_max_dist: tolerance of the edge match (odsF), as a share of the image diagonal.
    edge_nms: suppress non-maxima of edge predictions before they are thinned, a variant that params choose.
    middle: the depth or disparity that pictures give the middle colour; None: the median of what is painted.
    """

    classes: tuple[str, ...] | None = None
    edge_max_dist: float = 0.0075
    edge_nms: bool = False
    middle: float | None = None


def unchanged(value: Tensor, _amount: Tensor | None = None) -> Tensor:
    """What geometry does to values that don't depend on the viewpoint."""
    return value


@dataclass(frozen=True)
class Task:
    """One dense prediction task. Tensors are (B, C, H, W), `valid` (B, 1, H, W) bool; arrays as in `Label`.

    name, title, unit: how code, people and axes call it.
    channels: of the prediction; None: the dataset's number of classes. label_channels: of the label.
    loss: (prediction, target, valid) -> scalar; 0 with a graph where nothing is valid.
    decode: raw prediction -> the label's units: class index (B, 1, H, W) uint8, probability, unit normal,
        metres.
    metric: a fresh metric: `update(decoded prediction, target, valid)`, `compute()` -> {key: number}.
    primary_metric: the key that Δm compares; higher_is_better: its direction.
    categorical: label values are codes (classes; 0 and 1), uint8, rather than float32 measurements.
    resize_label: how a label is shrunk to a smaller training size: the nearest pixel, or `max` where values are thin
        lines of 1 that would be lost: a pixel is 1 when any that it covers is. Scoring never resizes labels.
    resize_prediction: how a decoded prediction is resized to its label.
    on_flip, on_rotate, on_zoom: what a geometric change, already made to the pixel grid, does to values: a
        horizontal flip; a rotation of the content counter-clockwise by (B,) radians; an enlargement by (B,)
        factors.

    How it is painted stands in pipeline/visual/paint.py, its constant predictor in pipeline/evaluation/trivial.py: an
    edit there retrains nothing.
    """

    name: str
    title: str
    unit: str
    channels: int | None
    label_channels: int
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    metric: Callable[[TaskContext], Metric]
    primary_metric: str
    higher_is_better: bool
    categorical: bool
    resize_prediction: Literal["nearest", "bilinear"]
    resize_label: Literal["nearest", "max"] = "nearest"
    on_flip: Callable[[Tensor], Tensor] = unchanged
    on_rotate: Callable[[Tensor, Tensor], Tensor] = unchanged
    on_zoom: Callable[[Tensor, Tensor], Tensor] = unchanged
