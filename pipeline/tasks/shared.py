"""Pieces that several tasks share: decoding and constant predictors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from pipeline.tasks.spec import TaskContext

Labels = Iterable[tuple[np.ndarray, np.ndarray]]


def class_names(context: TaskContext) -> tuple[str, ...]:
    """The dataset's class names. Raises ValueError for a dataset that names none."""
    if not context.classes:
        raise ValueError("this task needs class names: add it to the dataset's `classes`")
    return context.classes


def decode_classes(prediction: Tensor) -> Tensor:
    """(B, C, H, W) logits -> (B, 1, H, W) uint8 index of the likeliest class."""
    return prediction.argmax(dim=1, keepdim=True).byte()


def decode_probability(prediction: Tensor) -> Tensor:
    """(B, 1, H, W) logits -> probabilities, float32: the one place where a sigmoid is applied."""
    return prediction.float().sigmoid()


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
    if count == 0:
        raise ValueError("no valid label pixel in the training split: a constant predictor cannot be fitted")
