"""The gradient of each task's loss, kept apart where tasks share parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.compute import distributed


class TaskGradients:
    """One backward pass a task: for parameters that several tasks share, a matrix of gradients, a row for each task.

    Which parameters are shared follows from the network: those on which the losses of two tasks or more depend. A
    parameter of one task alone has that task's gradient, whatever the balancing. One of no task has none.

    batches: equal halves, thirds, ... of the parts of a batch whose gradients are kept apart, for methods that compare
    those of two batches. T tasks, N numbers in shared parameters; memory: 4 N (batches T + 1) bytes, and 4 N T more for
    the mean over several batches.
    """

    def __init__(self, network: nn.Module, batches: int = 1):
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._batches = batches
        self._shared: list[nn.Parameter] | None = None

    def rows(self) -> Tensor:
        """(T, N): each task's gradient on the shared parameters, the mean over the batches."""
        return self.matrices[0] if self._batches == 1 else self.matrices.mean(0)

    def add(self, losses: Sequence[Tensor], part: int, parts: int) -> None:
        """Add the gradients of the losses of one part of the batch, scalars with a graph, one a task."""
        if self._shared is None:
            self._lay_out(losses)
        if part == 0:
            self.matrices.zero_()
            self._own_flat.zero_()
        batch = part * self._batches // parts
        for i, loss in enumerate(losses):
            places = self._places[batch][i] + self._own_places[i]
            sources = self._shared_by[i] + self._own[i]
            gradients = torch.autograd.grad(loss, sources, retain_graph=i + 1 < len(losses))
            count = len(self._places[batch][i])
            if count:
                torch._foreach_add_(places[:count], gradients[:count], alpha=self._batches / parts)
            if count < len(places):
                torch._foreach_add_(places[count:], gradients[count:], alpha=1 / parts)

    def reduce(self) -> None:
        """Add up those of all processes."""
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(self.matrices)
            torch.distributed.all_reduce(self._own_flat)

    def put(self, combined: Tensor) -> None:
        """Give the parameters their gradients; combined (N,): of the shared ones."""
        assert self._shared is not None
        self._combined.copy_(combined)
        for parameter, gradient in zip(self._shared, self._combined_places, strict=True):
            parameter.grad = gradient
        for own, places in zip(self._own, self._own_places, strict=True):
            for parameter, gradient in zip(own, places, strict=True):
                parameter.grad = gradient

    def _lay_out(self, losses: Sequence[Tensor]) -> None:
        """See which losses depend on which parameters, and make room for the gradients."""
        gradients = (
            torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True) for loss in losses
        )
        depends = [[gradient is not None for gradient in row] for row in gradients]
        counts = [sum(column) for column in zip(*depends, strict=True)]
        shared = [i for i, count in enumerate(counts) if count > 1]
        self._shared = [self._parameters[i] for i in shared]
        self._shared_by = [[self._parameters[i] for i in shared if row[i]] for row in depends]
        own = [[i for i, count in enumerate(counts) if count == 1 and row[i]] for row in depends]
        self._own = [[self._parameters[i] for i in each] for each in own]
        like = losses[0]
        total = sum(parameter.numel() for parameter in self._shared)
        self.matrices = like.new_zeros(self._batches, len(losses), total, dtype=torch.float32)
        self._combined = like.new_zeros(total, dtype=torch.float32)
        self._own_flat = like.new_zeros(sum(p.numel() for each in self._own for p in each), dtype=torch.float32)
        self._combined_places = _places(self._combined, self._shared)
        self._places = [
            [
                [place for place, i in zip(_places(row, self._shared), shared, strict=True) if depends[task][i]]
                for task, row in enumerate(matrix)
            ]
            for matrix in self.matrices
        ]
        of_own = iter(_places(self._own_flat, [parameter for each in self._own for parameter in each]))
        self._own_places = [[next(of_own) for _ in each] for each in self._own]


def _places(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Views of a flat tensor, one for each parameter, of its shape and memory format."""
    views, at = [], 0
    for parameter in parameters:
        strides = torch.empty_like(parameter, device="meta").stride()  # dense, in the parameter's order
        views.append(flat[at : at + parameter.numel()].as_strided(parameter.shape, strides))
        at += parameter.numel()
    return views
