"""InvPT: attention over all positions of all tasks at once, at resolutions that double from stage to stage.

Ye, Xu, "Inverted Pyramid Multi-task Transformer for Dense Scene Understanding", ECCV 2022, arXiv:2203.07997.
Shapes: B batch, C channels, H, W; T tasks; stages 0, 1, 2 at strides 32, 16, 8 with C, C / 2, C / 4 channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import RELEASED_VIT, Backbone
from pipeline.networks.backbones.plain_vit import VIT_MAPS
from pipeline.networks.blocks import ConvNorm, PredictionConv
from pipeline.networks.invpt.blocks import DecoderBlock, Upsample
from pipeline.networks.outputs import Outputs

_VIT_STRIDE = 16  # of the maps of `vit_maps: depths`


class Preliminary(nn.Module):
    """A task's preliminary decoder: two 3x3 conv + BN + ReLU, a prediction, and both combined by a 1x1 convolution.

    (B, in, H, W) -> features (B, out, H, W), prediction (B, task channels, H, W).
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, task_channels: int):
        super().__init__()
        self.blocks = nn.Sequential(ConvNorm(in_channels, in_channels, 3), ConvNorm(in_channels, width, 3))
        self.predict = PredictionConv(width, task_channels)
        self.combine = nn.Conv2d(width + task_channels, out_channels, 1)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(x)
        prediction = self.predict(features)
        return self.combine(torch.cat([features, prediction], 1)), prediction


class Stage(nn.Module):
    """One UP-Transformer stage of the decoder. In stage 0 nothing is upsampled, skipped or received.

    x (B, T, H, W, in), message, the backbone's map (B, S, 2H, 2W) -> (B, T', 2H, 2W, out), message, and what the
    stage gives to the final features of each main task: a list of (B, full, 2H, 2W).

    tasks, targets: T, T'. outputs: how many of the tasks, the first ones, are main; their results are normalised
    together, over all their channels at once, as released. in_channels, skip_channels: None in stage 0. doubles: the
    backbone's map is (B, S, H, W), and a transposed convolution enlarges it.
    """

    def __init__(
        self,
        index: int,
        channels: int,
        full: int,
        tasks: int,
        targets: int,
        outputs: int,
        in_channels: int | None = None,
        skip_channels: int | None = None,
        doubles: bool = False,
    ):
        super().__init__()
        first = in_channels is None
        self.up = None if in_channels is None else nn.ModuleList(Upsample(in_channels, channels) for _ in range(tasks))
        self.skip = None if skip_channels is None else _projection(skip_channels, channels, doubles)
        self.block = DecoderBlock(channels, tasks, targets, pool=2 ** (index + 1), receives=not first)
        self.norm = nn.LayerNorm(outputs * channels)
        self.widen = nn.ModuleList(nn.Identity() if first else nn.Conv2d(channels, full, 1) for _ in range(outputs))
        self.out_channels = channels

    def forward(self, x: Tensor, message: Tensor | None, skip: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        if self.up is not None:
            assert self.skip is not None and skip is not None
            extra, maps = self.skip(skip), x.permute(1, 0, 4, 2, 3)
            raised = [up(m, extra.shape[-2:]) + extra for up, m in zip(self.up, maps, strict=True)]
            x = torch.stack(raised, 1).permute(0, 1, 3, 4, 2)
        x, message = self.block(x, message)
        count = len(self.widen)
        normed = self.norm(x[:, :count].permute(0, 2, 3, 1, 4).flatten(3)).permute(0, 3, 1, 2).chunk(count, 1)
        return x, message, [widen(m) for widen, m in zip(self.widen, normed, strict=True)]


def _projection(in_channels: int, channels: int, doubles: bool) -> nn.Module:
    """A 3x3 convolution: (B, in, H, W) -> (B, channels, H, W), or (B, channels, 2H, 2W) where it doubles."""
    if doubles:
        return nn.ConvTranspose2d(in_channels, channels, 3, stride=2, padding=1, output_padding=1)
    return nn.Conv2d(in_channels, channels, 3, padding=1)


class InvPT(nn.Module):
    """Image (B, 3, H, W) -> Outputs; its `auxiliary` are the preliminary predictions of all tasks, at stride 32.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks take part in all attention; they
    have no final features, so in the last stage they only give keys and values.

    width: channels of the preliminary features; the decoder has C = 9/8 of it. The released code has 512 and 576 on
    ViT-L's 1024 channels; the same ratio on the 144 of HRNet-18's coarsest map is 64, with 18 channels left in stage
    2. The default is twice that: C = 144, a decoder of half the backbone's parameters for two tasks.

    vit_maps: what the decoder takes of the backbone, with which it has to be built.
    pyramid: maps of strides 4 to 32. The coarsest is decoded; those of strides 16 and 8 are added in stages 1 and 2
        after a 3x3 convolution. The one of stride 4, where the stages' outputs are summed, joins that sum by a 3x3
        convolution too.
    depths: as released. Four maps of a plain ViT, all of stride 16. The last one, halved, is decoded. The second is
        added in stage 1 after a 3x3 convolution, the first in stage 2 after a transposed one that doubles it. The third
        is not used, and only the stages' outputs are summed.

    Raises ValueError for fewer than two tasks, and for a backbone of other strides.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {"width": (128, 64, 256, 512), "vit_maps": VIT_MAPS}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        width: int = 128,
        vit_maps: str = VIT_MAPS[0],
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        if len(everything) < 2:
            raise ValueError(
                f"invpt attends across tasks and needs at least 2 (main and auxiliary), "
                f"got {list(everything)}. Use single_task for one."
            )
        depths = vit_maps == "depths"
        _check_strides(backbone.strides, depths)
        self.backbone = backbone
        finest, finer, coarser, coarsest = backbone.channels
        full = width + width // 8
        self.preliminary = nn.ModuleDict(
            {task: Preliminary(coarsest, width, full, n) for task, n in everything.items()}
        )
        skips = [finer, finest] if depths else [coarser, finer]
        self.stages = _stages(full, skips, len(everything), len(tasks), depths)
        self.skip = None if depths else nn.Conv2d(finest, full, 3, padding=1)
        self.mix = nn.ModuleDict({task: ConvNorm(full, full, 3) for task in tasks})
        self.heads = nn.ModuleDict({task: PredictionConv(full, n) for task, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        finest, finer, coarser, coarsest = self.backbone(image)
        skips, size = [coarser, finer], finest.shape[-2:]
        if self.skip is None:
            height, width = coarsest.shape[-2:]  # even, since images are enlarged to multiples of 32
            skips, size = [finer, finest], torch.Size((4 * height, 4 * width))
            coarsest = resize(coarsest, (height // 2, width // 2))
        features, preliminary = {}, {}
        for task, decode in self.preliminary.items():
            features[task], preliminary[task] = decode(coarsest)
        x = torch.stack(list(features.values()), 1).permute(0, 1, 3, 4, 2)
        sums = [None if self.skip is None else self.skip(finest)] * len(self.heads)
        message = None
        for stage, skip in zip(self.stages, [None, *skips], strict=True):
            x, message, given = stage(x, message, skip)
            sums = [_added(total, resize(m, size)) for total, m in zip(sums, given, strict=True)]
        final = {}
        for (task, head), total in zip(self.heads.items(), sums, strict=True):
            final[task] = resize(head(self.mix[task](total)), image.shape[-2:])
        return Outputs(final, [preliminary])


def _added(total: Tensor | None, x: Tensor) -> Tensor:
    return x if total is None else total + x


def _check_strides(strides: Sequence[int], depths: bool) -> None:
    if depths and set(strides) != {_VIT_STRIDE}:
        raise ValueError(
            f"invpt with vit_maps: depths takes a plain ViT with patches of {_VIT_STRIDE} pixels (or 14, DINOv2's), "
            f"not maps of strides {list(strides)}. Choose for example {RELEASED_VIT}, or set vit_maps to pyramid."
        )
    if not depths and list(strides) != sorted(set(strides)):
        raise ValueError(
            f"invpt doubles its resolution from map to map, so it takes no dilated backbone (strides "
            f"{strides}): set output_stride to 32."
        )


def _stages(full: int, skip_channels: Sequence[int], tasks: int, outputs: int, depths: bool) -> nn.ModuleList:
    """Stage 0 and one more for each map that is added, coarse to fine, each of half the channels of the one before.

    depths: the maps have one resolution, that of stage 1, so the last stage doubles its own.
    """
    last = len(skip_channels)
    stages = nn.ModuleList([Stage(0, full, full, tasks, tasks, outputs)])
    for index, skip in enumerate(skip_channels, 1):
        channels = full // 2**index
        targets = outputs if index == last else tasks
        doubles = depths and index == last
        stages.append(Stage(index, channels, full, tasks, targets, outputs, 2 * channels, skip, doubles))
    return stages
