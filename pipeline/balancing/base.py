"""What every way of balancing tasks gives to the training step.

A step of the optimiser calls, in this order: `begin_step`; `backward` for each part of the batch; `end_backward`; after
the update of the parameters `after_update`. `backward` may be captured in a CUDA graph, where nothing but its kernels
runs again: what Python decides at each step belongs in the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_BALANCING_STREAM = 3  # sets balancing's random streams apart from those of sampling and augmentation


class Balancing(ABC):
    """Turns the losses of the tasks into the gradients of a network's parameters.

    tasks: all that are trained. task_weights: the factor of each task's loss before anything else; a task without one
    is an error (KeyError), never a silent 1.
    """

    # Whether it takes the gradient of each task by itself, so that nothing else may add gradients up over processes.
    takes_gradients = False

    def __init__(self, tasks: Sequence[str], task_weights: Mapping[str, float]):
        self.tasks = tuple(tasks)
        self.task_weights = {task: task_weights[task] for task in tasks}

    def begin_step(self) -> None:  # noqa: B027 - most have nothing to do here, nor in the following
        """Whatever has to be drawn or decided before a step."""

    @abstractmethod
    def backward(self, losses: Mapping[str, Tensor], part: int, parts: int) -> None:
        """Add to the gradients of the parameters what part `part` of `parts` of the batch gives.

        losses: by task, scalars with a graph: this process's share of each, without task_weights.
        """

    def end_backward(self) -> None:  # noqa: B027
        """Make the gradients of all parameters whole, those of all processes, after the last part."""

    def after_update(self, losses: Callable[[], Mapping[str, Tensor]]) -> None:  # noqa: B027
        """Learn from the step that was taken. losses(): those of the same batch, by task, as they are now."""

    def end_epoch(self) -> None:  # noqa: B027
        """Learn from the epoch that ends."""

    def record(self) -> dict[str, Tensor]:
        """What the last step did, for the log: scalars by name, the same in every process."""
        return {}

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the method that the optimiser trains beside those of the network."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""

    def weighted(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """The losses times their task_weights, in the order of the tasks."""
        return [self.task_weights[task] * losses[task] for task in self.tasks]


@contextmanager
def random_stream(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Within the block torch draws on `device` from a stream of its own, the same in all processes and after a resume.

    Streams of other devices are not touched, as torch.manual_seed would.
    """
    number = int(np.random.SeedSequence([seed, step, _BALANCING_STREAM]).generate_state(1)[0])
    if device.type == "cuda":
        with torch.random.fork_rng([device]), torch.cuda.device(device):
            torch.cuda.manual_seed(number)
            yield
    else:
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(number)
            yield
