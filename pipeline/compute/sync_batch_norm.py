"""Batch norm whose statistics are those of the batch in all processes together.

CUDA has torch's own, which refuses other devices. This one is for processes on CPUs, and small enough to read. It
holds for equal shares of the batch, which is what processes get here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compute import distributed
from pipeline.core.errors import TrainingError


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Change every batch norm of `network` in place; parameters, buffers and their names stay as they are.

    Raises TrainingError for a kind that this can't be done to.
    """
    if device.type == "cuda":
        convert_sync_batchnorm(network)  # torch's, which timm extends to its batch norm with activation
        return
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            if type(layer) not in _SYNCHRONISED:
                kind = type(layer).__name__
                raise TrainingError(f"batch norm can't be shared by processes on a CPU: {name} is a {kind}; use one")
            layer.__class__ = _SYNCHRONISED[type(layer)]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over the equal shares of all processes: (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same; while training, with the statistics of all processes."""
        return _normalise(self, x) if self.training else super().forward(x)


class SyncBatchNormAct2d(BatchNormAct2d):
    """The same of timm's batch norm with an activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same; while training, with the statistics of all processes."""
        return self.act(self.drop(_normalise(self, x))) if self.training else super().forward(x)


_SYNCHRONISED = {nn.BatchNorm2d: SyncBatchNorm2d, BatchNormAct2d: SyncBatchNormAct2d}


class _Total(torch.autograd.Function):
    """The sum over all processes. What each does with it concerns the values of all: so are gradients summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return distributed.all_reduce_sum(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return distributed.all_reduce_sum(gradient)


def _normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    count = x.numel() // x.shape[1] * dist.get_world_size()
    wide = x.float()
    # Two sums one after the other, since a mean of squares less a squared mean loses digits.
    mean = _Total.apply(wide.sum((0, 2, 3))) / count
    centred = wide - mean.view(1, -1, 1, 1)
    var = _Total.apply(centred.square().sum((0, 2, 3))) / count
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (count / max(1, count - 1)), norm.momentum)
    scale = norm.weight * (var + norm.eps).rsqrt()
    return torch.addcmul(norm.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1)).to(x.dtype)
