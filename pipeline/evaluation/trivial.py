"""The best predictor of each task that ignores the image: what any network must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from pipeline.data.sample import Label
from pipeline.data.store import DatasetInfo, Store
from pipeline.evaluation.scoring import Scorer, Scores, task_context
from pipeline.tasks.shared import class_names
from pipeline.tasks.spec import TaskContext

Labels = Iterable[tuple[np.ndarray, np.ndarray]]
"""(value, valid) of training labels, as in `Label`."""

_DISPARITY_STEPS = 2**16 - 1  # labels are 16-bit codes divided by it, so that the median is exact in these steps


def majority_class(labels: Labels, context: TaskContext) -> np.ndarray:
    """The most frequent class, () uint8. Raises ValueError where no pixel is valid."""
    counts = np.zeros(len(class_names(context)), np.int64)
    for value, valid in labels:
        counts += np.bincount(value[valid], minlength=len(counts))
    require_pixels(counts.sum())
    return np.asarray(counts.argmax(), np.uint8)


def mean_value(labels: Labels, context: TaskContext) -> np.ndarray:
    """Mean of valid pixels (depth, share of positives), () float32. Raises ValueError if none is valid."""
    total, count = 0.0, 0
    for value, valid in labels:
        total += value[valid].sum(dtype=np.float64)
        count += int(valid.sum())
    require_pixels(count)
    return np.asarray(total / count, np.float32)


def mean_direction(labels: Labels, context: TaskContext) -> np.ndarray:
    """Unit vector nearest to all (least squares), (3,) float32. Raises ValueError if no pixel is valid."""
    total, count = np.zeros(3), 0
    for value, valid in labels:
        total += value[valid].sum(axis=0, dtype=np.float64)
        count += int(valid.sum())
    require_pixels(count)
    return (total / np.linalg.norm(total)).astype(np.float32)


def require_pixels(count: int) -> None:
    """Raise ValueError where no pixel of the training split has a label."""
    if count == 0:
        raise ValueError("no valid label pixel in the training split: a constant predictor cannot be fitted")


def median_disparity(labels: Labels, context: TaskContext) -> np.ndarray:
    """The (lower) median of valid pixels, () float32: no constant has a smaller absolute error.

    To 1/65535, for labels in 0..1. Raises ValueError if none is valid.
    """
    counts = np.zeros(_DISPARITY_STEPS + 1, np.int64)
    for value, valid in labels:
        codes = np.rint(value[valid].astype(np.float64) * _DISPARITY_STEPS).astype(np.int64)
        counts += np.bincount(codes.clip(0, _DISPARITY_STEPS), minlength=len(counts))
    require_pixels(counts.sum())
    return np.asarray(np.searchsorted(counts.cumsum(), (counts.sum() + 1) // 2) / _DISPARITY_STEPS, np.float32)


TRIVIAL: dict[str, Callable[[Labels, TaskContext], np.ndarray]] = {
    "semseg": majority_class,
    "human_parts": majority_class,
    "sal": mean_value,
    "depth": mean_value,
    "disparity": median_disparity,
    "normals": mean_direction,
    "edge": mean_value,
}
"""By task: () class index, metres, disparity or probability, or (3,) unit normal."""


def score_trivial(
    train: Store, val: Store, tasks: tuple[str, ...], info: DatasetInfo
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Scores of the best constant prediction, learned from the train labels: what any network must beat.

    Returns the scores and the constants: majority class, mean depth, mean normal, share of positives.
    """
    scorer = Scorer(tasks, info, torch.device("cpu"))
    constants = {}
    for task in tasks:
        labels = ((label.value, label.valid) for label in train.labels(task))
        constant = np.asarray(TRIVIAL[task](labels, task_context(info, task)))
        constants[task] = constant
        for label in val.labels(task):
            scorer.update(task, [_constant_prediction(constant, label)], [label])
    return scorer.compute(), constants


def _constant_prediction(constant: np.ndarray, label: Label) -> Tensor:
    tensor = torch.as_tensor(constant).reshape(1, -1, 1, 1)
    tensor = tensor.long() if not tensor.is_floating_point() else tensor.float()
    return tensor.expand(1, -1, *label.valid.shape)
