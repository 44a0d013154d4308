"""Sequential cross attention: across tasks at each scale, then across scales in each task.

Kim, Choi, Min, "Sequential Cross Attention Based Multi-task Learning", ICIP 2022, arXiv:2209.02518.
docs/networks.md draws it and leads from each part of the paper to its class; tests/reference/sca.py is the plain form.
Shapes: B batch, C_k channels of scale k, H, W; T tasks; K = 4 scales, fine to coarse.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.blocks import ConvNorm
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.outputs import Outputs
from pipeline.networks.sca.attention import PADDINGS, WindowSelfAttention
from pipeline.networks.sca.csam import CrossScaleAttention
from pipeline.networks.sca.ctam import CrossTaskAttention
from pipeline.networks.sca.fpma import FeaturePropagation
from pipeline.networks.sca.task_features import scale_features

ATT_HEADS = 6


class SequentialAttention(nn.Module):
    """Image (B, 3, H, W) -> Outputs; its `auxiliary` predict all T tasks at each of K scales, fine to coarse.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks take part in task
    features, CTAM and FPMA; they have no CSAM and no final head, so at the finest scale they only give.

    Options, the released code's behaviour first: ctam_reduction, fpma_mask, csam_attention (see the blocks);
    window_padding and, for ATT, small_map_shift (see `WindowBlock`); att_drop_path, the probability of stochastic depth
    in ATT's second, shifted block; scale_channels, "backbone" or the most that a scale may have before ATT: a wider one
    is projected to so many by 1x1 convolution, batch norm and ReLU. That is not in the paper: parameters and time grow
    with the square of the channels, and only HRNet has few.
    Ablations: att=False leaves the backbone's maps as they are, ctam=False and fpma=False pass each task's
    own map on, csam=False aggregates the scales without attention.

    Raises ValueError for fewer than two tasks.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {
        "ctam_reduction": ("shared", "per_task"),
        "fpma_mask": ("channels", "tasks"),
        "csam_attention": ("shared", "per_source"),
        "window_padding": PADDINGS,
        "small_map_shift": (True, False),
        "att_drop_path": (0.2, 0.0),
        "scale_channels": ("backbone", 64, 128, 256),
        "att": (True, False),
        "ctam": (True, False),
        "fpma": (True, False),
        "csam": (True, False),
    }

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        ctam_reduction: str = "shared",
        fpma_mask: str = "channels",
        csam_attention: str = "shared",
        window_padding: str = "attended",
        small_map_shift: bool = True,
        att_drop_path: float = 0.2,
        scale_channels: str | int = "backbone",
        att: bool = True,
        ctam: bool = True,
        fpma: bool = True,
        csam: bool = True,
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        if len(everything) < 2:
            raise ValueError(
                f"sequential_attention attends across tasks and needs at least 2 (main and auxiliary), "
                f"got {list(everything)}. Use single_task for one."
            )
        self.tasks, self.all_tasks = tuple(tasks), tuple(everything)
        self.backbone = backbone
        self.projections, base = _narrowed(backbone.channels, scale_channels)
        self.att = (
            nn.ModuleList(
                WindowSelfAttention(
                    c, ATT_HEADS, 2, padding=window_padding, shift_small=small_map_shift, drop_path=att_drop_path
                )
                for c in base
            )
            if att
            else None
        )
        channels = [2 * c for c in base] if att else list(base)
        self.features = scale_features(everything, channels)
        # What an auxiliary task gathers at the finest scale would reach no output: it is no target there.
        targets = [self.tasks] + [self.all_tasks] * (len(channels) - 1)
        self.ctam = nn.ModuleList(
            CrossTaskAttention(c, self.all_tasks, to, ctam_reduction) if ctam else nn.Identity()
            for c, to in zip(channels, targets, strict=True)
        )
        self.fpma = nn.ModuleList(
            FeaturePropagation(c, self.all_tasks, fpma_mask, window_padding) if fpma else nn.Identity()
            for c in channels[1:]
        )
        scales = {t: CrossScaleAttention(channels, csam_attention) for t in tasks}
        self.csam = nn.ModuleDict(scales) if csam else None
        self.heads = nn.ModuleDict({t: self._head(t, channels, n) for t, n in tasks.items()})

    def _head(self, task: str, channels: list[int], task_channels: int) -> MultiScaleHead:
        if self.csam is None:
            return MultiScaleHead([[c] for c in channels], task_channels)
        csam = self.csam[task]
        assert isinstance(csam, CrossScaleAttention)
        return MultiScaleHead(csam.out_channels, task_channels, csam.repeats)

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        if self.projections is not None:
            maps = [project(x) for x, project in zip(maps, self.projections, strict=True)]
        if self.att is not None:
            maps = [torch.cat([x, attend(x)], 1) for x, attend in zip(maps, self.att, strict=True)]
        distilled, auxiliary = self._across_tasks(maps)
        final = {task: self._across_scales(task, [scale[task] for scale in distilled]) for task in self.tasks}
        return Outputs({task: resize(x, image.shape[-2:]) for task, x in final.items()}, auxiliary)

    def _across_tasks(self, maps: list[Tensor]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Coarse to fine: task features, CTAM, FPMA. K maps -> K x {task: map}, K x {task: prediction}."""
        distilled: list[dict[str, Tensor]] = []
        predictions: list[dict[str, Tensor]] = []
        propagated: dict[str, Tensor] = {}
        for k in reversed(range(len(maps))):
            features, predicted = self.features[k](maps[k], propagated)
            distilled.insert(0, self.ctam[k](features))
            predictions.insert(0, predicted)
            if k > 0:
                propagated = self.fpma[k - 1](distilled[0])
        return distilled, predictions

    def _across_scales(self, task: str, maps: list[Tensor]) -> Tensor:
        """CSAM and aggregation: K maps -> raw prediction at the finest scale."""
        return self.heads[task]([[x] for x in maps] if self.csam is None else self.csam[task](maps))


def _narrowed(channels: list[int], most: str | int) -> tuple[nn.ModuleList | None, list[int]]:
    """Modules that bring each scale to `most` channels if it has more, None for "backbone"; and the channels then."""
    if isinstance(most, str):
        return None, channels
    narrow = [min(c, most) for c in channels]
    return nn.ModuleList(
        ConvNorm(c, n) if n < c else nn.Identity() for c, n in zip(channels, narrow, strict=True)
    ), narrow
