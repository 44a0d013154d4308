"""Balancing by the gradients of the tasks on the parameters that they share.

Most methods look only at the products of the tasks' gradients, G = J J^T (T, T), and answer with a weight for each
task: the step is then weights @ J. torchjd.aggregation solves for the weights, on the CPU and in float64. J (T, N):
the gradients, a row for each task. T tasks, N numbers in shared parameters.

A batch without a single label of a task has no gradient of it, and most methods would stand still at that. So methods
without a memory balance the other tasks, and those with one keep their last weights for the step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchjd import aggregation

from pipeline.balancing.base import Balancing, random_stream
from pipeline.balancing.task_gradients import TaskGradients
from pipeline.compute import distributed
from pipeline.core.errors import TrainingError


class GradientBalancing(Balancing):
    """Takes each task's gradient apart and combines them on the shared parameters, once a step.

    batches: see TaskGradients. Raises TrainingError for a gradient that is not finite.
    """

    takes_gradients = True

    def __init__(self, tasks: Sequence[str], task_weights: Mapping[str, float], network: nn.Module, batches: int = 1):
        super().__init__(tasks, task_weights)
        self._gradients = TaskGradients(network, batches)
        self._losses: Tensor | None = None
        self._record: dict[str, float] = {}

    def backward(self, losses: Mapping[str, Tensor], part: int, parts: int) -> None:
        """Take the gradient of each task's loss over final and auxiliary predictions."""
        weighted = self.weighted(losses)
        values = torch.stack([loss.detach() for loss in weighted])
        if self._losses is None:
            self._losses = torch.zeros_like(values)  # written in place, for a CUDA graph
        if part == 0:
            self._losses.zero_()
        self._losses.add_(values, alpha=1 / parts)
        self._gradients.add(weighted, part, parts)

    def end_backward(self) -> None:
        """Combine them. The host waits for the device here: it is what chooses the weights."""
        gradients = self._gradients
        gradients.reduce()
        assert self._losses is not None
        losses = distributed.all_reduce_sum(self._losses).double().cpu()
        rows, batches = gradients.rows(), gradients.matrices
        gramian = products(batches[0], batches[-1])
        own = gramian if len(batches) == 1 else products(rows, rows)
        if distributed.world_size() > 1:  # whatever hardware the others have: all take the step of the first
            gramian, own, losses = distributed.all_gather((gramian, own, losses))[0]
        norms = own.diagonal().sqrt()
        for task, norm in zip(self.tasks, norms.tolist(), strict=True):
            if norm != norm or norm == float("inf"):
                raise TrainingError(
                    f"the gradient of {task} is {norm}: its loss can't be balanced, and training can't continue. "
                    "Lower the run's training.lr in params.yaml or check its labels."
                )
        cosines = own / (norms[:, None] * norms[None]).clamp(min=1e-30)
        self._record = {
            f"balancing/gradient_norm/{task}": norm for task, norm in zip(self.tasks, norms.tolist(), strict=True)
        }
        for i, k in combinations(range(len(self.tasks)), 2):
            self._record[f"balancing/cosine/{self.tasks[i]}_{self.tasks[k]}"] = float(cosines[i, k])
        gradients.put(self.combine(rows, gramian, losses))

    @abstractmethod
    def combine(self, rows: Tensor, gramian: Tensor, losses: Tensor) -> Tensor:
        """rows J (T, N), products (T, T), losses (T,) of the whole batch, the last two float64 on the CPU -> (N,)."""

    def record(self) -> dict[str, Tensor]:
        """Weight (its fixed one included), norm of the gradient, and the cosine between those of two tasks."""
        assert self._losses is not None
        return {name: self._losses.new_tensor(value) for name, value in self._record.items()}


class WeightedGradients(GradientBalancing):
    """The step is a sum of the tasks' gradients, each times a weight."""

    def combine(self, rows: Tensor, gramian: Tensor, losses: Tensor) -> Tensor:
        """weights @ rows."""
        weights = self.weights(gramian, losses)
        for task, weight in zip(self.tasks, weights.tolist(), strict=True):
            self._record[f"balancing/weight/{task}"] = weight * self.task_weights[task]
        combined = torch.zeros_like(rows[0])
        for row, weight in zip(rows, weights.tolist(), strict=True):
            combined.add_(row, alpha=weight)  # plain float32: a product of matrices would be TF32 on a GPU
        return combined

    @abstractmethod
    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """The weight (T,) of each task's gradient: gramian (T, T), losses (T,), all float64 on the CPU."""


def products(first: Tensor, second: Tensor) -> Tensor:
    """J1 J2^T (T, T) in float64 on the CPU, of two (T, N) in float32; never in TF32."""
    if first.data_ptr() == second.data_ptr():
        entries = {}
        for i in range(len(first)):
            for k in range(i + 1):
                entries[i, k] = entries[k, i] = torch.dot(first[i], first[k])
        flat = [entries[i, k] for i in range(len(first)) for k in range(len(first))]
    else:
        flat = [torch.dot(one, other) for one in first for other in second]
    return torch.stack(flat).double().cpu().reshape(len(first), len(first))


class Method(NamedTuple):
    """A weighting of torchjd.

    remembers: what it remembers from step to step, by attribute. of_factor: it takes J, or any matrix with the same
    products, and not G. degree: s G has s^degree times the weights of G; None where that is not so. Solvers have limits
    of their own below which they take a gradient for 0: with a degree they are given products whose mean diagonal is 1.
    """

    weighting: nn.Module
    remembers: tuple[str, ...] = ()
    of_factor: bool = False
    degree: float | None = None


class GramianBalancing(WeightedGradients):
    """With a weighting of torchjd.

    Its random numbers are of a stream of its own, the same in all processes. Raises TrainingError where it finds no
    weights.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        task_weights: Mapping[str, float],
        network: nn.Module,
        method: Method,
        seed: int,
        batches: int = 1,
    ):
        super().__init__(tasks, task_weights, network, batches)
        self._method, self._seed, self._step = method, seed, 0
        self._last = torch.ones(len(tasks), dtype=torch.float64)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Those of the method; as the last ones, or of the other tasks, where one has no gradient."""
        present = (gramian.diagonal() != 0).nonzero().flatten()
        if len(present) == len(self.tasks) or (not self._method.remembers and len(present) > 1):
            self._last = torch.zeros_like(self._last)
            self._last[present] = self._solve(gramian[present][:, present])
        elif not self._method.remembers:  # of one task there is nothing to balance
            return torch.ones_like(self._last)
        return self._last

    def _solve(self, gramian: Tensor) -> Tensor:
        method, scale = self._method, 1.0
        if method.degree is not None:
            scale = float(gramian.diagonal().mean())
            gramian = gramian / scale
        with random_stream(self._seed, self._step, torch.device("cpu")):
            try:
                weights = method.weighting(factor(gramian) if method.of_factor else gramian).double()
            except Exception as error:  # solvers of several packages, each with errors of its own
                raise self._no_weights(str(error) or type(error).__name__) from error
        if not weights.isfinite().all():
            raise self._no_weights(f"got {weights.tolist()}")
        self._step += 1
        return weights * scale**method.degree if method.degree else weights

    def _no_weights(self, reason: str) -> TrainingError:
        return TrainingError(
            f"balancing found no weights for the tasks' gradients: {reason}. Lower the run's training.lr in "
            "params.yaml, or choose another balancing.method."
        )

    def state_dict(self) -> dict[str, Any]:
        """Which step is next, the last weights, and what the method remembers."""
        memory = {name: torch.as_tensor(getattr(self._method.weighting, name)).clone() for name in self._remembers()}
        return {"step": self._step, "last": self._last.clone(), "method": memory}

    def _remembers(self) -> tuple[str, ...]:
        return self._method.remembers if self._step else ()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._last = state["last"].cpu()
        if state["method"]:
            self._solve(torch.eye(len(self.tasks), dtype=torch.float64))  # it makes room for what it remembers
        for name, value in state["method"].items():
            plain = isinstance(getattr(self._method.weighting, name), Tensor)
            setattr(self._method.weighting, name, value.cpu() if plain else value.cpu().numpy())
        self._step = state["step"]


def factor(gramian: Tensor) -> Tensor:
    """A matrix F (T, T) with F F^T = gramian, which is symmetric: it stands for J where only products matter."""
    values, vectors = torch.linalg.eigh(gramian)
    return vectors * values.clamp(min=0).sqrt()


class SignDropout(GradientBalancing):
    """graddrop: each number keeps the gradients of one sign, drawn by how they agree (Chen et al., NeurIPS 2020).

    On the gradients of the shared parameters, where the paper takes those of an activation. leak: the part of each
    gradient that is kept whatever its sign.
    """

    def __init__(
        self, tasks: Sequence[str], task_weights: Mapping[str, float], network: nn.Module, seed: int, leak: float
    ):
        super().__init__(tasks, task_weights, network)
        self._leak, self._seed, self._step = leak, seed, 0

    def combine(self, rows: Tensor, gramian: Tensor, losses: Tensor) -> Tensor:
        """The sum of what is kept."""
        leak = rows.new_full((len(rows),), self._leak)
        with random_stream(self._seed, self._step, rows.device):
            combined = aggregation.GradDrop(leak=leak)(rows)
        self._step += 1
        return combined

    def state_dict(self) -> dict[str, Any]:
        """Which step is next."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._step = state["step"]
