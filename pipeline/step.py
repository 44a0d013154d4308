"""One step of the optimiser: the losses of a batch, their gradient and the update."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.balancing import FixedWeights
from pipeline.datasets.loading import Batch
from pipeline.device import NORMALIZATIONS, Device
from pipeline.errors import TrainingError
from pipeline.nets import Outputs
from pipeline.params import ResolvedRun, Training
from pipeline.tasks import get_task
from pipeline.training_state import task_of


class Step:
    """Takes steps of `optimizer` on the parameters of `network` by the recipe of `run`.

    The batch is taken in `accumulate` equal parts and the gradient averaged over them. A loss is the masked mean over
    the valid pixels of one part, and batch norm's statistics are those of one part: with more than one, a step is that
    of the whole batch only where all parts have as many valid pixels and nothing else ties images together.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, run: ResolvedRun, device: Device):
        self._network, self._optimizer, self._device = network, optimizer, device
        self._recipe, self._tasks = run.training, run.all_tasks
        self._balance = FixedWeights(run.training.task_weights)
        self._normalization = NORMALIZATIONS[run.training.normalization]
        # A wrapper that shares the parameters: what is saved and scored stays `network`, with its own names.
        self._forward = torch.compile(network, dynamic=False) if device.compiles(run.training.compile) else network

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step on an augmented batch; returns its losses by name, without a graph."""
        parts = self._recipe.accumulate
        self._optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for part in batch.split(parts):
            with self._device.autocast():
                outputs = self._forward(self._device.image(part.image, self._normalization))
                losses = task_losses(outputs, part, self._tasks, self._recipe.deep_supervision)
                total = self._balance(by_task(losses)) / parts
            total.backward()
            means = {name: means.get(name, 0) + loss.detach().float() / parts for name, loss in losses.items()}
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_norm)
        self._optimizer.step()
        return means


def require_equal_parts(batch_size: int, recipe: Training) -> None:
    """Raise TrainingError where a batch can't be split as the recipe says: one of a split smaller than batch_size."""
    if batch_size % recipe.accumulate:
        raise TrainingError(
            f"the training split has only {batch_size} samples, which training.accumulate {recipe.accumulate} does not "
            "divide: set it to 1"
        )


def make_optimizer(network: nn.Module, recipe: Training, device: Device) -> torch.optim.Optimizer:
    fused = device.has_fused_optimizers or None  # None leaves the choice of another form to torch
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=recipe.momentum, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer](network.parameters(), **common)


def task_losses(outputs: Outputs, batch: Batch, tasks: tuple[str, ...], deep_supervision: bool) -> dict[str, Tensor]:
    """Scalar losses: `loss/<task>` of each final prediction, `loss_auxiliary/<task>` summed over the auxiliary ones.

    Auxiliary predictions meet the same loss (MTI-Net, section 3.4, and the released recipe: the same losses and weights
    at each scale). A task that is only auxiliary has no final prediction, and is trained by its auxiliary ones even
    without deep supervision.
    """
    losses: dict[str, Tensor] = {}
    for task in tasks:
        loss, target, valid = get_task(task).loss, batch.value[task], batch.valid[task]
        if task in outputs.final:
            losses[f"loss/{task}"] = loss(outputs.final[task], target, valid)
        if deep_supervision or task not in outputs.final:
            scales = [scale[task] for scale in outputs.auxiliary if task in scale]
            if scales:
                each = [loss(scale, target, valid) for scale in scales]
                losses[f"loss_auxiliary/{task}"] = sum(each)
    return losses


def by_task(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Final and auxiliary losses of each task added up: what is balanced between tasks."""
    totals: dict[str, Tensor] = {}
    for name, loss in losses.items():
        task = task_of(name)
        totals[task] = totals[task] + loss if task in totals else loss
    return totals
