"""One step of the optimiser: the losses of a batch, their gradient and the update."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.balancing.base import Balancing
from pipeline.balancing.make import make_balancing
from pipeline.compute import distributed
from pipeline.compute.device import NORMALIZATIONS, Device, Normalization
from pipeline.compute.sync_batch_norm import synchronise_batch_norm
from pipeline.core import names
from pipeline.loading.loader import Batch
from pipeline.networks.registry import Outputs
from pipeline.params.schema import ResolvedRun, Training
from pipeline.tasks import get_task
from pipeline.train.cuda_graph import CUDAGraphStep
from pipeline.train.state import task_of

_SYNC_BUFFERS = "forward_sync_buffers"  # from torch 2.13 on
if _SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"

# At every start torch advises against what is meant: gradients that lie in memory as channels-last weights do.
warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")


class Step:
    """Takes steps of `optimizer` on the parameters of `network` by the recipe of `run`, tasks balanced by `balancing`.

    The batch is taken in `accumulate` equal parts and the gradient averaged over them. A loss is the masked mean over
    the valid pixels of one part, and batch norm's statistics are those of one part: with more than one, a step is that
    of the whole batch only where all parts have as many valid pixels and nothing else ties images together.

    Processes each take a share of every part. Losses and statistics are still those of the whole part, and gradients
    are added, so that the step is that of one process, but for rounding.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        run: ResolvedRun,
        device: Device,
        balancing: Balancing,
    ):
        self._network, self._recipe = network, run.training
        self.optimizer, self.balancing = optimizer, balancing
        self._losses: nn.Module = _Losses(network, run, device)
        if distributed.world_size() > 1:
            synchronise_batch_norm(network, device.torch_device)
        if distributed.world_size() > 1 and not balancing.takes_gradients:
            own = [device.torch_device] if device.torch_device.type == "cuda" else None
            # Buffers are the same everywhere by themselves; and which parts of a network are idle never changes.
            self._losses = DistributedDataParallel(
                self._losses,
                device_ids=own,
                static_graph=True,
                **{_SYNC_BUFFERS: False},  # type: ignore[arg-type]  # a name that depends on torch's version
            )
        self._compute = CUDAGraphStep(self._gradients) if uses_cuda_graph(run, device) else self._gradients

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step on this process's augmented share.

        Returns its part of the losses by name, without a graph, and that of what the balancing has to say: summed over
        all processes, each is whole.
        """
        self.balancing.begin_step()
        means = self._compute(batch)
        self.balancing.end_backward()
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_norm)
        self.optimizer.step()
        self.balancing.after_update(lambda: self._losses_now(batch))
        world = distributed.world_size()
        return means | {name: value / world for name, value in self.balancing.record().items()}

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        parts = self._recipe.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for i, part in enumerate(batch.split(parts)):
            losses = self._losses(part)
            self.balancing.backward(by_task(losses), i, parts)
            means = {name: means.get(name, 0) + loss.detach().float() / parts for name, loss in losses.items()}
        return means

    @torch.no_grad()
    def _losses_now(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the batch by task, as training computes them; statistics of batch norm stay as they were."""
        before = [(buffer, buffer.clone()) for buffer in self._network.buffers()]
        losses = by_task(self._losses(batch))
        for buffer, value in before:
            buffer.copy_(value)
        return losses


class _Losses(nn.Module):
    """Batch -> its losses. They are in it so that DistributedDataParallel sees which parameters they depend on."""

    def __init__(self, network: nn.Module, run: ResolvedRun, device: Device):
        super().__init__()
        self.network = network
        # A function that shares the parameters: what is saved and scored stays `network`, with its own names.
        compiled = run.training.compile
        self._forward = [torch.compile(network, dynamic=False) if compiled else network]  # a list hides it from torch
        self._device, self._tasks, self._deep = device, run.all_tasks, run.training.deep_supervision
        self._normalization: Normalization = NORMALIZATIONS[run.training.normalization]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with self._device.autocast():
            outputs = self._forward[0](self._device.image(batch.image, self._normalization))
            return task_losses(outputs, batch, self._tasks, self._deep)


def make_step(network: nn.Module, run: ResolvedRun, device: Device, seed: int) -> Step:
    """The steps of a run, with the optimiser and the balancing that it asks for."""
    optimizer, chosen = make_optimizer(network, run.training, device), run.balancing
    balancing = make_balancing(
        chosen.method, chosen.options, run.all_tasks, run.loss_weights, network, device.torch_device, seed
    )
    if own := balancing.parameters():
        optimizer.add_param_group({"params": own, "weight_decay": 0.0})
    return Step(network, optimizer, run, device, balancing)


def uses_cuda_graph(run: ResolvedRun, device: Device) -> bool:
    """Whether the steps of a run are a CUDA graph there: where the device, params and the balancing method let them."""
    return run.balancing.method not in names.NO_CUDA_GRAPH and device.uses_cuda_graph(run.training.cuda_graph)


def make_optimizer(network: nn.Module, recipe: Training, device: Device) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, for all parameters of the network."""
    fused = device.has_fused_optimizers or None  # None leaves the choice of another form to torch
    lr, decay = recipe.lr, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=recipe.momentum, lr=lr, weight_decay=decay, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(network.parameters(), lr=lr, weight_decay=decay, fused=fused)


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
                losses[f"loss_auxiliary/{task}"] = cast(Tensor, sum(each))
    return losses


def by_task(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Final and auxiliary losses of each task added up: what is balanced between tasks."""
    totals: dict[str, Tensor] = {}
    for name, loss in losses.items():
        task = task_of(name)
        totals[task] = totals[task] + loss if task in totals else loss
    return totals
