"""Pieces that several tasks share: class names and decoding."""

from __future__ import annotations

from torch import Tensor

from pipeline.tasks.spec import TaskContext


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
