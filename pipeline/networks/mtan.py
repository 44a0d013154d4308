"""MTAN: a shared encoder, from whose stages each task picks its features by attention masks.

Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv:1803.10704; in the form that
the authors give for ResNets. Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.backbones.stages import SUITABLE, Maps, split
from pipeline.networks.blocks import ConvNorm
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.outputs import Outputs


class AttentionMask(nn.Sequential):
    """g and h of the paper's eq. 2, a task's own: (B, in, H, W) -> a mask in (0, 1), (B, out, H, W).

    Two 1x1 conv + BN with a ReLU between, a quarter of `out` wide inside, then a sigmoid.
    """

    def __init__(self, in_channels: int, out_channels: int):
        inside = max(1, out_channels // 4)
        super().__init__(ConvNorm(in_channels, inside), ConvNorm(inside, out_channels, act=False), nn.Sigmoid())
        self.out_channels = out_channels


class SharedFeatures(nn.Module):
    """f of the paper's eq. 2, the same for all tasks: attended features on their way to the next stage's mask.

    (B, in, H, W) -> (B, out, H / stride, W / stride). A residual bottleneck (He et al., CVPR 2016, fig. 5 right), a
    quarter of `out` wide inside, with a 1x1 conv + BN as shortcut; then max pooling where the next stage is coarser.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        inside = max(1, out_channels // 4)
        self.blocks = nn.Sequential(
            ConvNorm(in_channels, inside), ConvNorm(inside, inside, 3), ConvNorm(inside, out_channels, act=False)
        )
        self.shortcut = ConvNorm(in_channels, out_channels, act=False)
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.blocks(x) + self.shortcut(x)))


class MTAN(nn.Module):
    """Image (B, 3, H, W) -> Outputs.

    Stage by stage, with u the maps before the stage's last block and p those after it, task t attends to
    a_t = mask_t([u ; f(a_t of the stage before)]) * p; the first stage has no f. A head per task reads the attended
    maps; the encoder itself goes on with p.

    tasks, auxiliary_tasks: {task: channels}, at least one. Auxiliary tasks have masks and heads like the others; only
    the place of their prediction differs.

    The authors' ResNet is dilated and a DeepLab head reads its last stage. Adapted here: the head is the same as the
    other architectures', and reads four attended maps; where a stage halves the resolution, f pools. HRNet has several
    maps in a stage, and each has masks of its own: u are the branches before the stage's last exchange, p those after
    it, and f comes from the same resolution of the stage before, for a new resolution from its coarsest, pooled.

    Raises ValueError for a backbone that cannot be run stage by stage, or whose stages do not have a last block that
    keeps the resolution.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {}

    def __init__(self, backbone: Backbone, tasks: Mapping[str, int], auxiliary_tasks: Mapping[str, int]):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        self.tasks, self.auxiliary_tasks = tuple(tasks), tuple(auxiliary_tasks)
        self.backbone = backbone
        self.stages = split(backbone)
        inner, outputs = self.stages.inner, self.stages.outputs
        if any(u.strides != p.strides for u, p in zip(inner, outputs, strict=True)):
            raise ValueError(
                f"mtan needs a backbone whose stages end with a block that keeps the resolution; "
                f"{type(backbone.net).__name__} is not known to have them. Suitable are, for example, {SUITABLE}."
            )
        self.carry = nn.ModuleList(_carry(a, b) for a, b in pairwise(outputs))
        self.attention = nn.ModuleList()
        for stage, (u, p) in enumerate(zip(inner, outputs, strict=True)):
            carried = p.channels if stage > 0 else [0] * len(p.channels)
            widths = [(own + other, out) for own, other, out in zip(u.channels, carried, p.channels, strict=True)]
            masks = {task: nn.ModuleList(AttentionMask(*width) for width in widths) for task in everything}
            self.attention.append(nn.ModuleDict(masks))
        self.heads = nn.ModuleDict(
            {t: MultiScaleHead([[c] for c in backbone.channels], n) for t, n in everything.items()}
        )

    def forward(self, image: Tensor) -> Outputs:
        maps = self.stages.stem(self.backbone, self.stages.start(image))
        attended: dict[str, list[list[Tensor]]] = {task: [] for task in self.heads}
        for stage, attention in enumerate(self.attention):
            inner = self.stages.trunk(self.backbone, stage, maps)
            maps = self.stages.last(self.backbone, stage, inner)
            assert isinstance(attention, nn.ModuleDict)
            for task, masks in attention.items():
                assert isinstance(masks, nn.ModuleList)
                x = inner if stage == 0 else self._join(stage, inner, attended[task][-1])
                attended[task].append([mask(y) * p for mask, y, p in zip(masks, x, maps, strict=True)])
        raw = {t: head([[x] for x in self.stages.pyramid(attended[t])]) for t, head in self.heads.items()}
        final = {task: resize(raw[task], image.shape[-2:]) for task in self.tasks}
        auxiliary = {task: raw[task] for task in self.auxiliary_tasks}
        return Outputs(final, [auxiliary] if auxiliary else [])

    def _join(self, stage: int, inner: list[Tensor], before: list[Tensor]) -> list[Tensor]:
        """[u ; f(a)] for every map of a stage; `before` are the task's attended maps of the stage before."""
        carry = self.carry[stage - 1]
        assert isinstance(carry, nn.ModuleList)
        carried = [f(before[min(i, len(before) - 1)]) for i, f in enumerate(carry)]
        return [torch.cat([u, x], 1) for u, x in zip(inner, carried, strict=True)]


def _carry(before: Maps, after: Maps) -> nn.ModuleList:
    """f for every map of a stage, from the same map of the stage before or else from its coarsest."""
    modules = nn.ModuleList()
    for i, (channels, stride) in enumerate(zip(after.channels, after.strides, strict=True)):
        j = min(i, len(before.channels) - 1)
        modules.append(SharedFeatures(before.channels[j], channels, stride // before.strides[j]))
    return modules
