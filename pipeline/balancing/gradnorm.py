"""GradNorm (Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.balancing.by_gradients import WeightedGradients


class GradNorm(WeightedGradients):
    """gradnorm: learns weights under which the tasks' gradients have norms that follow how far each has got.

    With n the norm of a task's gradient, r its relative inverse training rate, (loss / first loss) over the mean of
    that over tasks, and w its weight: w descends |w n - mean(w n) r^alpha| (equation 2, the second term a constant),
    by Adam at the rate `lr`, and the weights are scaled back to a sum of T. Norms are of all shared parameters, where
    the paper takes the last shared layer alone to save time. Steps without a label of some task change no weight.
    """

    def __init__(
        self, tasks: Sequence[str], task_weights: Mapping[str, float], network: nn.Module, alpha: float, lr: float
    ):
        super().__init__(tasks, task_weights, network)
        self._alpha = alpha
        self._weights = torch.ones(len(tasks), dtype=torch.float64)
        self._optimizer = torch.optim.Adam([self._weights], lr=lr)
        self._first: Tensor | None = None

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Those of this step; the next step's are learnt from it."""
        now = self._weights.clone()
        norms = gramian.diagonal().sqrt()
        if (norms == 0).any() or (losses == 0).any():
            return now
        if self._first is None:
            self._first = losses
        progress = losses / self._first
        target = (now * norms).mean() * (progress / progress.mean()) ** self._alpha
        self._weights.grad = norms * (now * norms - target).sign()
        self._optimizer.step()
        self._weights.clamp_(min=1e-4)  # a weight below 0 would climb its loss
        self._weights.mul_(len(self._weights) / self._weights.sum())
        return now

    def state_dict(self) -> dict[str, Any]:
        """The weights, the state of their optimiser and the first losses."""
        own = {"weights": self._weights.clone(), "first": self._first}
        return own | {"optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._weights.copy_(state["weights"])
        self._first = None if state["first"] is None else state["first"].cpu()
        self._optimizer.load_state_dict(state["optimizer"])
