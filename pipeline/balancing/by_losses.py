"""Balancing by the values of the losses: one backward pass, as with fixed weights.

Each method is a function f of the losses, from torchjd.scalarization. Its gradient is sum over tasks of
(df / dloss) * grad loss: so each gives the factor of every task's loss, df / dloss at the losses of the whole batch,
and the sum of factor * loss is back-propagated. That way several processes, which hold shares of the losses, take the
step of one.

A batch without a single label of a task has a loss of 0 for it, which says nothing: in its place the method sees the
last loss of that task, or before there was one the mean of the others'. Its gradient is 0 then anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchjd import scalarization

from pipeline.balancing.base import Balancing, random_stream
from pipeline.compute import distributed


class LossBalancing(Balancing):
    """Back-propagates sum of factor * loss, with the factors that `scalarizer` has at the losses of the whole batch."""

    def __init__(
        self,
        tasks: Sequence[str],
        task_weights: Mapping[str, float],
        device: torch.device,
        scalarizer: scalarization.Scalarizer,
    ):
        super().__init__(tasks, task_weights)
        self._scalarizer = scalarizer.to(device)
        self._fixed = torch.tensor(list(self.task_weights.values()), device=device)
        # All are written in place, so that a CUDA graph and Python see the same ones.
        self._losses = torch.zeros(len(self.tasks), device=device)  # the last ones of the tasks, weighted; 0: none yet
        self._seen = torch.zeros(len(self.tasks), device=device)  # what the method sees of this part of the batch
        self._mean_losses = torch.zeros(len(self.tasks), device=device)  # over the parts of the batch
        self._factors = torch.zeros(len(self.tasks), device=device)

    def backward(self, losses: Mapping[str, Tensor], part: int, parts: int) -> None:
        """Back-propagate the losses by their factors."""
        own = torch.stack(self.weighted(losses))
        values = distributed.all_reduce_sum(own.detach())
        self._see(values)
        factors = self.factors(self._seen, parts)
        ((factors * own).sum() / parts * distributed.world_size()).backward()
        if part == 0:
            self._factors.zero_()
            self._mean_losses.zero_()
        self._factors.add_(factors, alpha=1 / parts)
        self._mean_losses.add_(self._seen, alpha=1 / parts)

    def _see(self, values: Tensor) -> None:
        """Losses (T,), with others in the place of those that say nothing."""
        present = values > 0
        mean = (values * present).sum() / present.sum().clamp(min=1)
        self._losses.copy_(torch.where(present | values.isnan(), values, self._losses))
        known = torch.where(self._losses > 0, self._losses, mean)
        self._seen.copy_(torch.where(known > 0, known, torch.ones_like(known)))

    def factors(self, losses: Tensor, parts: int) -> Tensor:
        """df / dloss (T,) at the losses (T,). T tasks. The method's own parameters get their gradient on the way."""
        own = self.parameters()
        at = losses.clone().requires_grad_()
        gradient, *others = torch.autograd.grad(self._scalarizer(at), [at, *own])
        for parameter, each in zip(own, others, strict=True):
            parameter.grad = each / parts if parameter.grad is None else parameter.grad + each / parts
        return gradient

    def record(self) -> dict[str, Tensor]:
        """The factor of each task's loss, its fixed weight included."""
        factors = (self._factors * self._fixed).clone()
        return {f"balancing/weight/{task}": each for task, each in zip(self.tasks, factors, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The last losses, and what the method learnt."""
        return {"losses": self._losses, "method": self._scalarizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._losses.copy_(state["losses"])
        self._scalarizer.load_state_dict(state["method"])


class Learnt(LossBalancing):
    """With parameters of the method that are trained beside the network's, at the same rate and without weight decay.

    uw: uncertainty weighting, sum of exp(-s) loss / 2 + s / 2 (Kendall, Gal, Cipolla, CVPR 2018).
    imtl_l: sum of exp(s) loss - s (Liu et al., ICLR 2021, section 3.2).
    """

    def parameters(self) -> list[nn.Parameter]:
        """One s a task."""
        return list(self._scalarizer.parameters())


class _Decided(LossBalancing):
    """Its factors don't depend on the losses of the step: they are there before it."""

    def __init__(
        self,
        tasks: Sequence[str],
        task_weights: Mapping[str, float],
        device: torch.device,
        scalarizer: scalarization.Scalarizer,
    ):
        super().__init__(tasks, task_weights, device, scalarizer)
        self._decided = torch.zeros(len(self.tasks), device=device)

    def factors(self, losses: Tensor, parts: int) -> Tensor:
        return self._decided

    def decide(self, device: torch.device) -> None:
        """Take the factors from the scalarizer; of one without a memory of losses, any losses give the same."""
        at = torch.ones(len(self.tasks), device=device, requires_grad=True)
        self._decided.copy_(torch.autograd.grad(copy.deepcopy(self._scalarizer)(at), at)[0])


class RandomWeights(_Decided):
    """rlw: softmax of normal numbers, drawn for each step (Lin, Ye, Zhang, Tsang, TMLR 2022, algorithm 2)."""

    def __init__(self, tasks: Sequence[str], task_weights: Mapping[str, float], device: torch.device, seed: int):
        super().__init__(tasks, task_weights, device, scalarization.Random())
        self._seed, self._step = seed, 0

    def begin_step(self) -> None:
        """Draw, on the CPU, so that any device trains with the same weights."""
        with random_stream(self._seed, self._step, torch.device("cpu")):
            self.decide(torch.device("cpu"))
        self._step += 1

    def state_dict(self) -> dict[str, Any]:
        """The last losses, and which step is next."""
        return super().state_dict() | {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        self._step = state["step"]


class DynamicWeightAverage(_Decided):
    """dwa: T times the softmax of how fast each loss fell from epoch to epoch (Liu, Johns, Davison, CVPR 2019)."""

    _scalarizer: scalarization.DWA
    _STATE = ("_loss_sum", "_n_batches", "_previous_averages")

    def begin_step(self) -> None:
        """The same all through an epoch; uniform in the first two."""
        self.decide(self._decided.device)

    def after_update(self, losses: Callable[[], Mapping[str, Tensor]]) -> None:
        """Add the step's losses to the epoch's."""
        self._scalarizer(self._mean_losses)

    def end_epoch(self) -> None:
        """Turn to the weights of the next epoch."""
        self._scalarizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The last losses, and the means of the last two epochs and of the one at hand."""
        return super().state_dict() | {"epochs": {name: getattr(self._scalarizer, name) for name in self._STATE}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        device = self._losses.device
        for name, value in state["epochs"].items():
            if isinstance(value, list):
                value = [each.to(device) for each in value]
            setattr(self._scalarizer, name, value.to(device) if isinstance(value, Tensor) else value)


class FAMO(LossBalancing):
    """famo: the weights learn from how each loss changes over a step (Liu, Feng, Stone, Liu, NeurIPS 2023)."""

    _scalarizer: scalarization.FAMO

    def after_update(self, losses: Callable[[], Mapping[str, Tensor]]) -> None:
        """A second look at the batch: the losses after the step, without a gradient."""
        values = distributed.all_reduce_sum(torch.stack(self.weighted(losses())).detach())
        self._scalarizer.update(torch.where(values > 0, values, self._seen))

    def state_dict(self) -> dict[str, Any]:
        """The last losses, the logits and the state of their optimiser."""
        optimizer = self._scalarizer._optimizer
        return super().state_dict() | {"optimizer": optimizer.state_dict() if optimizer else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        if state["optimizer"] is not None:
            method = self._scalarizer
            method._optimizer = torch.optim.Adam([method._w], lr=method.lr, weight_decay=method.weight_decay)
            method._optimizer.load_state_dict(state["optimizer"])
