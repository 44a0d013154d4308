"""A problem whose tasks have gradients as one likes, and steps of a balancing method on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.balancing.base import Balancing
from pipeline.balancing.make import make_balancing

TASKS = ("semseg", "depth", "normals", "edge")
CPU = torch.device("cpu")


class Linear(nn.Module):
    """Shared parameters in two tensors, one of them a channels-last weight, and one of each task's own."""

    def __init__(self, tasks: int, size: int):
        super().__init__()
        assert size > 8
        self.weight = nn.Parameter(torch.zeros(2, 2, 1, 2).to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(size - 8))
        self.own = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(tasks)])
        self.idle = nn.Parameter(torch.zeros(3))

    def gradient(self) -> Tensor:
        """The gradient of the shared parameters, (N,)."""
        assert self.weight.grad is not None and self.bias.grad is not None
        return torch.cat([self.weight.grad.flatten(), self.bias.grad.flatten()])


class Problem:
    """Tasks whose losses have the gradients `rows` (T, N) on what they share, and the values `losses` (T,)."""

    def __init__(self, method: str, rows: Tensor, seed: int = 0, task_weights: dict | None = None, **options: float):
        self.tasks = TASKS[: len(rows)]
        self.network = Linear(*rows.shape)
        weights = task_weights or dict.fromkeys(self.tasks, 1.0)
        self.balancing: Balancing = make_balancing(method, options, self.tasks, weights, self.network, CPU, seed)

    def losses(self, rows: Tensor, values: Tensor) -> dict[str, Tensor]:
        """At any parameters: the value is kept, whatever the gradient moved."""
        network, losses = self.network, {}
        shared = torch.cat([network.weight.flatten(), network.bias])
        for i, task in enumerate(self.tasks):
            moved = rows[i] @ shared + (i + 1) * network.own[i].sum()
            losses[task] = (moved - moved.detach() + values[i]) * float(values[i] > 0)
        return losses

    def step(self, *parts: tuple[Tensor, Tensor], after: Tensor | None = None) -> Tensor:
        """Gradient of the shared parameters, of a step on parts (rows, values); after: the losses that it leads to."""
        for parameter in [*self.network.parameters(), *self.balancing.parameters()]:
            parameter.grad = None
        self.balancing.begin_step()
        for i, (rows, values) in enumerate(parts):
            self.balancing.backward(self.losses(rows, values), i, len(parts))
        self.balancing.end_backward()
        gradient = self.network.gradient().clone()
        rows, values = parts[-1]
        self.balancing.after_update(lambda: self.losses(rows, values if after is None else after))
        return gradient

    def weights(self) -> Tensor:
        """The weights that the last step logged."""
        record = self.balancing.record()
        return torch.stack([record[f"balancing/weight/{task}"] for task in self.tasks])
