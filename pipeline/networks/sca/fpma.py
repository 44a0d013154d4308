"""FPMA: what a scale hands to the next finer one (Kim et al., ICIP 2022; after MTI-Net's propagation)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.networks.blocks import ResidualBlock, SqueezeExcite
from pipeline.networks.sca.attention import WindowSelfAttention

HEADS = 4


class FeaturePropagation(nn.Module):
    """Mixes all tasks' maps under an attention mask and adds each task's share of the mix to its own map.

    {task: (B, C, H, W)} -> the same.

    mask: window attention on the concatenation (B, T*C, H, W), then a softmax
        "tasks": over the T tasks, for every channel, as described in the paper;
        "channels": over groups of T neighbouring channels, mostly of one task, as in the released code
        (a reshape slip that goes back to MTI-Net).
    padding: of the window attention, see `WindowBlock`.
    """

    def __init__(self, channels: int, tasks: Sequence[str], mask: str = "channels", padding: str = "attended"):
        super().__init__()
        self.tasks, self.mask = tuple(tasks), mask
        width = channels * len(self.tasks)
        self.attention: nn.Module = WindowSelfAttention(width, HEADS, depth=1, padding=padding)
        self.reduce = ResidualBlock(width, channels)
        self.excite = nn.ModuleDict({task: SqueezeExcite(channels) for task in self.tasks})
        self.out_channels = channels

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = torch.cat([features[task] for task in self.tasks], 1)
        shared = self.reduce(maps * self._softmax(self.attention(maps)))
        return {task: features[task] + self.excite[task](shared) for task in self.tasks}

    def _softmax(self, x: Tensor) -> Tensor:
        """(B, T*C, H, W) -> masks of the same shape that add up to 1 over each group of T."""
        tasks = len(self.tasks)
        if self.mask == "tasks":
            return x.unflatten(1, (tasks, -1)).softmax(1).flatten(1, 2)
        return x.unflatten(1, (-1, tasks)).softmax(2).flatten(1, 2)
