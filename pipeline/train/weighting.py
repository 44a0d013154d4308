"""Fixed weights: the published recipes' way."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class FixedWeights:
    """total = sum over tasks of weight * loss.

    weights: the weight of each task; a loss whose task has none is an error (KeyError), never a silent 1.
    """

    def __init__(self, weights: Mapping[str, float]):
        self.weights = dict(weights)

    def __call__(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Scalar losses by task -> scalar total."""
        total = sum(self.weights[task] * loss for task, loss in losses.items())
        assert isinstance(total, Tensor), "no task"
        return total
