"""Which epoch's weights to keep, by its scores on samples that neither train the network nor count in the end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import TrainingError
from pipeline.metrics.delta import relative_gain
from pipeline.tasks import get_task


class Selection:
    """Keeps the weights of the best epoch so far: one whose Δm against the epoch kept before is above 0.

    For one task that is the best primary metric; for several it is the project's own measure of better on the whole,
    with the kept epoch in the baselines' place.
    """

    def __init__(self, tasks: Sequence[str]):
        self._tasks = tuple(tasks)
        self._scores: dict[str, float] | None = None
        self._weights: dict[str, torch.Tensor] = {}
        self.epoch: int | None = None

    def offer(self, epoch: int, scores: Mapping[str, Mapping[str, float]], network: nn.Module) -> bool:
        """Keep the network's weights if this epoch is the best. Raises TrainingError for one that is NaN."""
        found = {task: scores[task][get_task(task).primary_metric] for task in self._tasks}
        for task, value in found.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{task} {get_task(task).primary_metric} is {value} on the held-out training samples (none has a "
                    "valid pixel, or the network diverged), so no epoch can be chosen: set evaluation.select_on to null"
                )
        if self._scores is not None and mean_gain(found, self._scores) <= 0:
            return False
        self.epoch, self._scores = epoch, found
        self._weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        return True

    def restore(self, network: nn.Module) -> None:
        """Give the network the kept weights."""
        network.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"epoch": self.epoch, "scores": self._scores, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.epoch, self._scores, self._weights = state["epoch"], state["scores"], state["weights"]


def mean_gain(scores: Mapping[str, float], kept: Mapping[str, float]) -> float:
    """Δm of `scores` against `kept`, in per cent; where higher is better, anything against 0 counts as +100 %."""
    return statistics.fmean(_gain(task, score, kept[task]) for task, score in scores.items())


def _gain(task: str, score: float, kept: float) -> float:
    better = get_task(task).higher_is_better
    if kept > 0:
        return relative_gain(score, kept, better)
    return 100.0 * ((score > kept) if better else -(score > kept))
