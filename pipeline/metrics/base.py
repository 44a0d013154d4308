"""What all metrics are: running sums over a split, out of which scores are computed at the end.

The interface is torchmetrics' (`add_state`, `update`, `compute`, `reset`). The package itself is left to the tests: it
computes none of our scores as the field defines them, and importing it costs every stage as long as importing torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor


class Metric(ABC):
    """Sums that grow by `update` and never depend on how a split was cut into batches.

    Subclasses declare their sums with `add_state` and find each as an attribute of that name.
    """

    def __init__(self) -> None:
        self._states: list[str] = []
        self.device = torch.device("cpu")

    def add_state(self, name: str, zero: Tensor) -> None:
        """Declare a sum; `zero` gives its shape and type: int64 for counts, float64 for the rest."""
        self._states.append(name)
        setattr(self, name, zero)

    @property
    def states(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._states}

    def to(self, device: torch.device) -> Self:
        """Move the sums to where predictions are made."""
        self.device = torch.device(device)
        for name, state in self.states.items():
            setattr(self, name, state.to(device))
        return self

    def reset(self) -> None:
        for name, state in self.states.items():
            setattr(self, name, torch.zeros_like(state))

    def merge(self, other: Metric) -> None:
        """Add the sums of another part of the split (another process's, say)."""
        for name, state in other.states.items():
            setattr(self, name, getattr(self, name) + state.to(self.device))

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch: decoded predictions and labels, (B, C, H, W), with valid, bool (B, 1, H, W)."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores so far, with `images` and `valid_pixels`; NaN where nothing was scored."""
