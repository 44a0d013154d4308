"""What all metrics are: running sums over a split, out of which scores are computed at the end.

The interface is torchmetrics' (`add_state`, `update`, `compute`, `reset`). The package itself is left to the tests: it
computes none of our scores as the field defines them, and importing it costs every stage as long as importing torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import TrainingError

COUNTS = ("images", "valid_pixels")  # among the scores of each: what was scored, not how well


class Metric(ABC):
    """Sums that grow by `update`, image by image, so that no bit depends on how a split was cut into batches.

    Subclasses declare their sums with `add_state` and find each as an attribute of that name, annotated in the class.
    What an image adds to those that the primary metric is made of they keep with `keep`: its statistics, out of which
    intervals are resampled. formula: how the primary metric follows from their sums, a key of `resampling.FORMULAS`.
    """

    formula: ClassVar[str]

    def __init__(self) -> None:
        self._states: list[str] = []
        self._kept: list[dict[str, Tensor]] = []
        self.device = torch.device("cpu")

    def add_state(self, name: str, zero: Tensor) -> None:
        """Declare a sum; `zero` gives its shape and type: int64 for counts, float64 for the rest."""
        self._states.append(name)
        setattr(self, name, zero)

    @property
    def states(self) -> dict[str, Tensor]:
        """The sums, by name."""
        return {name: getattr(self, name) for name in self._states}

    def to(self, device: torch.device) -> Self:
        """Move the sums to where predictions are made."""
        self.device = torch.device(device)
        for name, state in self.states.items():
            setattr(self, name, state.to(device))
        return self

    def reset(self) -> None:
        """Start all sums again from zero."""
        for name, state in self.states.items():
            setattr(self, name, torch.zeros_like(state))
        self._kept.clear()

    def keep(self, **statistics: Tensor) -> None:
        """Note what the image at hand, the next of the split, adds: by name, one number or (D,), int64 or float64."""
        self._kept.append(statistics)

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """What each of the N images so far added, by name, (N,) or (N, D); zeros for an image that is not scored."""
        names = self._kept[0] if self._kept else ()
        return {name: torch.stack([image[name] for image in self._kept]).cpu().numpy() for name in names}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add to the sums of these names."""
        for name, state in sums.items():
            setattr(self, name, getattr(self, name) + state.to(self.device))

    def take_fractions(self) -> dict[str, Tensor]:
        """The float64 sums, on the CPU, each of which starts again from zero.

        Counts stay: they add up the same in any order, and these don't, to the last bit.
        """
        sums = {name: getattr(self, name) for name in self._states}
        sums = {name: state for name, state in sums.items() if state.is_floating_point()}
        for name, state in sums.items():
            setattr(self, name, torch.zeros_like(state))
        return {name: state.cpu() for name, state in sums.items()}

    def change_counts(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put change(count) in place of each int64 sum."""
        for name, state in self.states.items():
            if not state.is_floating_point():
                setattr(self, name, change(state))

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch: decoded predictions and labels, (B, C, H, W), with valid, bool (B, 1, H, W).

        Raises TrainingError for a prediction that is not finite where the label is valid: NaN compares as false, so it
        would count as some answer or other. Raises ValueError for a valid label that the task does not know.
        """
        assert prediction.shape == target.shape, (prediction.shape, target.shape)
        assert valid.shape == (len(target), 1, *target.shape[2:]) and valid.dtype == torch.bool, valid.shape
        if prediction.is_floating_point():
            wrong = int((~prediction.isfinite() & valid).any(1).sum())
            if wrong:
                raise TrainingError(
                    f"{type(self).__name__}: the prediction is NaN or infinite in {wrong} of {int(valid.sum())} valid "
                    "pixels: training has diverged and there is nothing to score; lower training.lr and train again"
                )
        for image in zip(prediction.split(1), target.split(1), valid.split(1), strict=True):
            self._add(*image)

    @abstractmethod
    def _add(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add one image of a batch that `update` has checked, (1, C, H, W), and `keep` its statistics."""

    @property
    @abstractmethod
    def protocol(self) -> str:
        """What is computed, with the settings in force, in a sentence or two for metrics files and the report."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores so far, with the `COUNTS`; NaN where nothing was scored."""


def binary_label(target: Tensor, valid: Tensor) -> Tensor:
    """Where a 0/1 label is 1 and valid. Raises ValueError for a valid label that is neither (an ignore code, say)."""
    unknown = valid & (target != 0) & (target != 1)
    if unknown.any():
        raise ValueError(
            f"label {target[unknown][0].item():g} is neither 0 nor 1: "
            "pixels without a label must be marked as not valid by the dataset"
        )
    return valid & (target == 1)
