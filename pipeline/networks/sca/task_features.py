"""Task-specific features at one scale, with a prediction for deep supervision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.blocks import PredictionConv, ResidualBlock


class TaskFeatures(nn.Module):
    """Two residual blocks, then a 1x1 prediction that only the loss sees.

    (B, in, H, W) -> features (B, C, H, W), prediction (B, task channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, task_channels: int):
        super().__init__()
        self.blocks = nn.Sequential(ResidualBlock(in_channels, out_channels), ResidualBlock(out_channels, out_channels))
        self.predict = PredictionConv(out_channels, task_channels)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(x)
        return features, self.predict(features)


class ScaleFeatures(nn.ModuleDict):
    """The task features of one scale: a `TaskFeatures` for each of T tasks, by name.

    tasks: {task: channels of its prediction}; channels: C of the scale; coarser: channels that the next coarser scale
    propagates to each task, 0 at the coarsest.
    """

    def __init__(self, tasks: Mapping[str, int], channels: int, coarser: int):
        super().__init__({task: TaskFeatures(channels + coarser, channels, n) for task, n in tasks.items()})

    def forward(self, x: Tensor, propagated: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(B, C, H, W) and {task: propagated map}, empty at the coarsest -> {task: features}, {task: prediction}."""
        features, predictions = {}, {}
        for task, module in self.items():
            own = torch.cat([x, resize(propagated[task], x.shape[-2:])], 1) if propagated else x
            features[task], predictions[task] = module(own)
        return features, predictions


def scale_features(tasks: Mapping[str, int], channels: Iterable[int]) -> nn.ModuleList:
    """`ScaleFeatures` of each scale, fine to coarse, where the coarser propagates as many channels as it has."""
    channels = list(channels)
    return nn.ModuleList(ScaleFeatures(tasks, c, up) for c, up in zip(channels, [*channels[1:], 0], strict=True))
