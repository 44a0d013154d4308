"""NDDR-CNN: one encoder per task, whose features are fused by 1x1 convolutions after the stem and every stage.

Gao, Ma, Zhao, Liu, Yuille, "NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative
Dimensionality Reduction", CVPR 2019, arXiv:1801.08297. Shapes: B batch, C channels, H, W; T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.blocks import ConvNorm
from pipeline.networks.cross_stitch import EncoderFusion, initial_shares

MOMENTUM = 0.05  # of the fusing batch norms, in the released code: their statistics move half as fast as usual


class NDDR(nn.Module):
    """All tasks' maps, concatenated, through a 1x1 conv + BN + ReLU per task: {task: (B, C, H, W)} -> the same.

    A convolution starts as a multiple of the identity for every source: 0.9 for the task itself, 0.1 / (T - 1) for
    each other one. The batch norms have the released code's `MOMENTUM`. ReLU leaves the maps of ResNets and HRNets as
    they are; where a backbone's maps may be negative (ConvNeXt, EfficientNet) it cuts them, single-task weights or not.
    """

    starts_itself = True

    def __init__(self, channels: int, tasks: Sequence[str]):
        super().__init__()
        layers = {task: ConvNorm(len(tasks) * channels, channels) for task in tasks}
        self.reduce = nn.ModuleDict(layers)
        for layer, shares in zip(layers.values(), initial_shares(len(tasks)), strict=True):
            conv, norm, _ = layer
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            norm.momentum = MOMENTUM
            blocks = [share * torch.eye(channels) for share in shares]
            with torch.no_grad():
                conv.weight.copy_(torch.cat(blocks, 1)[:, :, None, None])

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        together = torch.cat([maps[task] for task in self.reduce], 1)
        return {task: reduce(together) for task, reduce in self.reduce.items()}


class NddrCnn(EncoderFusion):
    """Image (B, 3, H, W) -> Outputs. Every task, main or auxiliary, has an encoder and a head.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks take part like the others;
    only the place of their prediction differs.

    The released network, a ResNet, fuses five times: after the stem, its max pooling included, and after each of the
    four stages. So does every backbone here that has a stem apart from its first stage (ResNet, RegNet, ConvNeXt,
    EfficientNet, Swin, ...). On an HRNet, for which nothing is published, the stem belongs to the first stage, and four
    fusions follow the stages.

    Option shortcut: True for NDDR-CNN-Shortcut, where each map of the last stage is replaced, per task, by a 1x1
    conv + BN + ReLU of all fused maps, the stem's and itself included, resized (bilinear) to it and concatenated. From
    a stage with several maps (HRNet) comes the one of the same resolution, or else its coarsest. The paper's networks
    predict from the last stage alone; here the head reads four maps, those of earlier stages as well.

    The paper starts from trained single-task networks (`load_single_task`), gives the fusing convolutions 100 times
    the learning rate of the rest and counts weight decay on them as a part of the method.

    Raises ValueError for fewer than two tasks and for a backbone that cannot be run stage by stage.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {"shortcut": (False, True)}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        shortcut: bool = False,
    ):
        super().__init__("nddr_cnn", backbone, tasks, auxiliary_tasks, NDDR, after_stem=True)
        stem = self.stages.after_stem
        channels = [*([stem.channels] if stem else []), *(maps.channels for maps in self.stages.outputs)]
        convolutions = {
            task: nn.ModuleList(ConvNorm(sum(_nearest(channels, i)), c) for i, c in enumerate(channels[-1]))
            for task in (self.backbones if shortcut else ())
        }
        self.shortcut = nn.ModuleDict(convolutions)

    def pyramid(self, task: str, levels: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        if task in self.shortcut:
            joined = []
            convolutions = self.shortcut[task]
            assert isinstance(convolutions, nn.ModuleList)
            for i, (convolution, x) in enumerate(zip(convolutions, levels[-1], strict=True)):
                sources = [resize(source, x.shape[-2:]) for source in _nearest(levels, i)]
                joined.append(convolution(torch.cat(sources, 1)))
            levels = [*levels[:-1], joined]
        return super().pyramid(task, levels)


def _nearest(levels: Sequence[Sequence], i: int) -> list:
    """Of every level (the stem or a stage) what belongs to its i-th map, or to its last if it has fewer."""
    return [level[min(i, len(level) - 1)] for level in levels]
