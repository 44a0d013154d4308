"""Fixed weights: the published recipes' way."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.balancing.base import Balancing
from pipeline.compute import distributed


class FixedWeights(Balancing):
    """total = sum over tasks of task_weight * loss."""

    def backward(self, losses: Mapping[str, Tensor], part: int, parts: int) -> None:
        """Back-propagate the total."""
        total = self.total(losses) / parts
        (total * distributed.world_size()).backward()  # DistributedDataParallel averages gradients

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Scalar losses by task -> scalar total."""
        total = sum(self.task_weights[task] * loss for task, loss in losses.items())
        assert isinstance(total, Tensor), "no task"
        return total
