"""The losses on whole maps at full resolution, as one would write them first: the reference of tasks/losses.py."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.loading.loader import Batch
from pipeline.networks.registry import Outputs
from pipeline.tasks import get_task


def plain_loss(task: str, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Resize the prediction to the target, then the task's loss; cross-entropy as torch has it."""
    size = target.shape[-2:]
    prediction = F.interpolate(prediction.float(), size=size, mode="bilinear", align_corners=False)
    if task not in ("semseg", "human_parts"):
        return get_task(task).loss(prediction, target, valid)
    index = target.long().masked_fill(~valid, -100).squeeze(1)
    return F.cross_entropy(prediction, index, ignore_index=-100, reduction="sum") / valid.sum().clamp(min=1)


def plain_total(outputs: Outputs, batch: Batch, tasks: tuple[str, ...]) -> Tensor:
    """Sum over tasks and over final and auxiliary predictions: what a step with deep supervision minimises."""
    return sum(
        plain_loss(task, scale[task], batch.value[task], batch.valid[task])
        for scale in (outputs.final, *outputs.auxiliary)
        for task in tasks
        if task in scale
    )
