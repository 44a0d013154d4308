"""A balancing method from its name, and the packages that it needs; they are imported only where it is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.core import names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.balancing.base import Balancing

# Solvers that torchjd takes from other packages, by method.
_SOLVERS = {
    "cagrad": ("cvxpy", "clarabel"),
    "nash_mtl": ("cvxpy", "ecos"),
    "upgrad": ("qpsolvers", "quadprog"),
}


def lacking_packages(method: str) -> list[str]:
    """The packages that a method needs and that are not installed."""
    needed = () if method == names.FIXED else ("torchjd", *_SOLVERS.get(method, ()))
    return [package for package in needed if importlib.util.find_spec(package) is None]


def make_balancing(
    method: str,
    options: Mapping[str, float],
    tasks: Sequence[str],
    task_weights: Mapping[str, float],
    network: nn.Module,
    device: torch.device,
    seed: int,
) -> Balancing:
    """The method for a network that is on `device` already. See Balancing for tasks and task_weights."""
    if method == names.FIXED:
        from pipeline.balancing.fixed import FixedWeights

        return FixedWeights(tasks, task_weights)
    from pipeline.balancing.methods import METHODS, Setting

    return METHODS[method](Setting(tuple(tasks), dict(task_weights), network, device, seed), **options)
