"""Sequential attention as the paper's released network computes it, step by step: the reference of the fast form.

The released network is that of SCA_MTL, commit 8214866, with its one broken line put back; it was run beside this
project's on 2026-11-27, weights transplanted tensor by tensor, and agreed to 1e-14 in float64 once the defaults below
were the same. This form is written from the paper and from what those runs showed.

Nothing is shared, reordered or batched: every ordered pair of tasks and of scales is a call of its own with a query,
a key and a value of its own, every concatenation is made, and the head mixes all 1080 channels at the finest scale.
Parameters have the names of `pipeline.networks.sca.network`, so either loads the other's state dict.

Shapes: B batch, C channels, H, W. Options and sources as in `SequentialAttention`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from pipeline.networks.registry import Outputs


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class PlainHRNet(nn.Module):
    """The backbone: timm's HRNet, whose exchange units upsample bilinearly and whose batch norms have momentum 0.01."""

    def __init__(self, name: str):
        super().__init__()
        self.net = timm.create_model(name, features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
        self.channels = self.net.feature_info.channels()
        for stage in (self.net.stage2, self.net.stage3, self.net.stage4):
            for module in stage:
                for i, sources in enumerate(module.fuse_layers):
                    for j in range(i + 1, len(sources)):
                        sources[j][2] = nn.Upsample(scale_factor=2 ** (j - i), mode="bilinear", align_corners=False)
        for layer in self.net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.01

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.net(upsample(image, [math.ceil(side / 32) * 32 for side in image.shape[-2:]]))


def conv_norm(a: int, b: int, kernel: int = 1, act: bool = True, momentum: float = 0.1) -> nn.Sequential:
    layers = [nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(b, momentum=momentum)]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


def pairs(tasks: Sequence[str], target: str) -> list[str]:
    return [task for task in tasks if task != target]


class PlainResidualBlock(nn.Module):
    def __init__(self, a: int, b: int, momentum: float = 0.1):
        super().__init__()
        self.conv1 = conv_norm(a, b, 3, momentum=momentum)
        self.conv2 = conv_norm(b, b, 3, act=False, momentum=momentum)
        self.shortcut = nn.Identity() if a == b else conv_norm(a, b, act=False, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.shortcut(x)).relu()


class PlainSqueezeExcite(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        hidden = max(1, channels // 16)
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


class PlainCrossAttention(nn.Module):
    """CAM: out = V K^T q / (sum k . q), one call from the two maps."""

    def __init__(self, c: int):
        super().__init__()
        self.query = nn.Sequential(conv_norm(c, c), conv_norm(c, c, act=False), nn.Softplus())
        self.key = nn.Sequential(conv_norm(c, c), conv_norm(c, c, act=False), nn.Softplus())
        self.value = conv_norm(c, c)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        query = self.query(target).flatten(2)  # (B, D, N)
        key = self.key(source).flatten(2)  # (B, D, n)
        value = self.value(source).flatten(2)  # (B, C, n)
        key = key / key.shape[2]  # a mean over pixels: it cancels, and it is what the clamp is stated for
        context = value @ key.transpose(1, 2)  # (B, C, D)
        total = (key.sum(2, keepdim=True).transpose(1, 2) @ query).clamp(min=1e-6)  # (B, 1, N)
        return (context @ query / total).view_as(target)


class PlainWindowBlock(nn.Module):
    """Pre-norm window attention: pad, shift, cut into windows, attend under a mask, and all of it back.

    Released: the zeros of the padding are attended to, small maps are shifted too, and in training a sample's attention
    is left out with probability `drop` and else enlarged by 1 / (1 - drop).
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        shift: int,
        window: int = 7,
        padding: str = "attended",
        shift_small: bool = True,
        drop: float = 0.0,
    ):
        super().__init__()
        self.padding, self.shift_small, self.drop = padding, shift_small, drop
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, math.ceil(channels / heads), window)
        self.window, self.shift = window, shift

    def forward(self, x: Tensor) -> Tensor:
        (batch, height, width, channels), w = x.shape, self.window
        rows, columns = math.ceil(height / w), math.ceil(width / w)
        shift = [self.shift if side > w or self.shift_small else 0 for side in (height, width)]
        areas = [torch.arange(cells * w, device=x.device) for cells in (rows, columns)]
        areas = [(area >= s).long() for area, s in zip(areas, shift, strict=True)]  # 0: wraps to the far border
        region = 2 * areas[0][:, None] + areas[1][None, :]
        if self.padding == "masked":
            region[height:], region[:, width:] = -1, -1
        y = F.pad(self.norm(x), (0, 0, 0, columns * w - width, 0, rows * w - height))
        y = y.roll([-s for s in shift], (1, 2))
        region = region.roll([-s for s in shift], (0, 1))
        region = region.view(rows, w, columns, w).transpose(1, 2).reshape(-1, w * w)
        mask = (region[:, :, None] != region[:, None, :]) * -100.0
        y = y.view(batch, rows, w, columns, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        y = self.attention(y, mask)
        y = y.view(batch, rows, columns, w, w, channels).transpose(2, 3).reshape(batch, rows * w, columns * w, channels)
        y = y.roll(shift, (1, 2))[:, :height, :width]
        if self.training and self.drop:
            y = y * (torch.empty(batch, 1, 1, 1, dtype=x.dtype).bernoulli_(1 - self.drop).to(x) / (1 - self.drop))
        return x + y


class PlainWindowSelfAttention(nn.Module):
    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        padding: str = "attended",
        shift_small: bool = True,
        drop: float = 0.0,
    ):
        super().__init__()
        self.embed = nn.Conv2d(channels, channels, 1)
        self.norm_in, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        first = PlainWindowBlock(channels, heads, 0, padding=padding)
        second = PlainWindowBlock(channels, heads, 3, padding=padding, shift_small=shift_small, drop=drop)
        self.blocks = nn.Sequential(*[first, second][:depth])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_in(self.embed(x).permute(0, 2, 3, 1))
        return self.norm_out(self.blocks(x)).permute(0, 3, 1, 2).contiguous()


class PlainTaskFeatures(nn.Module):
    def __init__(self, a: int, b: int, out: int):
        super().__init__()
        self.blocks = nn.Sequential(PlainResidualBlock(a, b), PlainResidualBlock(b, b))
        self.predict = nn.Conv2d(b, out, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return x, self.predict(x)


class PlainCrossTaskAttention(nn.Module):
    def __init__(self, c: int, tasks: Sequence[str], targets: Sequence[str], reduction: str):
        super().__init__()
        self.attention = nn.ModuleDict(
            {t: nn.ModuleDict({a: PlainCrossAttention(c) for a in pairs(tasks, t)}) for t in targets}
        )
        names = ["shared"] if reduction == "shared" else targets
        self.reduce = nn.ModuleDict({n: PlainResidualBlock(2 * c * (len(tasks) - 1), c, 0.01) for n in names})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for t, cams in self.attention.items():
            gathered = [torch.cat([features[t], cam(features[t], features[a])], 1) for a, cam in cams.items()]
            reduce = self.reduce["shared"] if "shared" in self.reduce else self.reduce[t]
            out[t] = features[t] + reduce(torch.cat(gathered, 1))
        return out


class PlainFeaturePropagation(nn.Module):
    def __init__(self, c: int, tasks: Sequence[str], mask: str, padding: str = "attended"):
        super().__init__()
        self.tasks, self.mask = tuple(tasks), mask
        self.attention = PlainWindowSelfAttention(c * len(tasks), heads=4, depth=1, padding=padding)
        self.reduce = PlainResidualBlock(c * len(tasks), c)
        self.excite = nn.ModuleDict({t: PlainSqueezeExcite(c) for t in tasks})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = torch.cat([features[t] for t in self.tasks], 1)
        logits, n = self.attention(maps), len(self.tasks)
        batch, _, height, width = logits.shape
        if self.mask == "tasks":
            masks = logits.view(batch, n, -1, height, width).softmax(1)
        else:
            masks = logits.view(batch, -1, n, height, width).softmax(2)
        shared = self.reduce(maps * masks.view_as(maps))
        return {t: features[t] + self.excite[t](shared) for t in self.tasks}


class PlainCrossScaleAttention(nn.Module):
    def __init__(self, channels: Sequence[int], attention: str):
        super().__init__()
        scales = range(len(channels))
        self.project = nn.ModuleList(
            nn.ModuleList(conv_norm(channels[j], channels[k], act=False) for j in scales if j > k) for k in scales[:-1]
        )
        self.attention = nn.ModuleList(
            nn.ModuleList(PlainCrossAttention(channels[k]) for _ in range(1 if attention == "shared" else len(project)))
            for k, project in enumerate(self.project)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        out = []
        for k, projections in enumerate(self.project):
            gathered = []
            for i, project in enumerate(projections):
                cam = self.attention[k][0 if len(self.attention[k]) == 1 else i]
                gathered.append(cam(maps[k], project(maps[k + 1 + i])))
            # Each with F^k beside it; the fast form's order of the head's columns, where copies stand together.
            out.append(torch.cat([maps[k]] * len(gathered) + gathered, 1))
        return [*out, maps[-1]]


class PlainHead(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.mix, self.norm, self.predict = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, out, 1)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        maps = torch.cat([upsample(x, scales[0].shape[-2:]) for x in scales], 1)
        return self.predict(self.norm(self.mix(maps)).relu())


class PlainSequentialAttention(nn.Module):
    def __init__(
        self,
        backbone: nn.Module,
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
        everything, names = {**tasks, **auxiliary_tasks}, [*tasks, *auxiliary_tasks]
        self.tasks = tuple(tasks)
        self.backbone = backbone
        base, self.projections = backbone.channels, None
        if scale_channels != "backbone":
            narrow = [min(c, scale_channels) for c in base]
            self.projections = nn.ModuleList(
                nn.Sequential(nn.Conv2d(c, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU()) if n < c else nn.Identity()
                for c, n in zip(base, narrow, strict=True)
            )
            base = narrow
        windows = window_padding, small_map_shift, att_drop_path
        self.att = nn.ModuleList(PlainWindowSelfAttention(c, 6, 2, *windows) for c in base) if att else None
        channels = [2 * c for c in base] if att else list(base)
        self.features = nn.ModuleList(
            nn.ModuleDict({t: PlainTaskFeatures(c + up, c, n) for t, n in everything.items()})
            for c, up in zip(channels, [*channels[1:], 0], strict=True)
        )
        targets = [list(tasks), names, names, names]
        self.ctam = nn.ModuleList(
            PlainCrossTaskAttention(c, names, to, ctam_reduction) if ctam else nn.Identity()
            for c, to in zip(channels, targets, strict=True)
        )
        self.fpma = nn.ModuleList(
            PlainFeaturePropagation(c, names, fpma_mask, window_padding) if fpma else nn.Identity()
            for c in channels[1:]
        )
        self.csam = (
            nn.ModuleDict({t: PlainCrossScaleAttention(channels, csam_attention) for t in tasks}) if csam else None
        )
        width = sum(c * max(1, 2 * (3 - k)) for k, c in enumerate(channels)) if csam else sum(channels)
        self.heads = nn.ModuleDict({t: PlainHead(width, n) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        if self.projections is not None:
            maps = [project(x) for x, project in zip(maps, self.projections, strict=True)]
        if self.att is not None:
            maps = [torch.cat([x, attend(x)], 1) for x, attend in zip(maps, self.att, strict=True)]
        distilled: list[dict[str, Tensor]] = []
        auxiliary: list[dict[str, Tensor]] = []
        propagated: dict[str, Tensor] = {}
        for k in reversed(range(len(maps))):
            features, predicted = {}, {}
            for task, module in self.features[k].items():
                x = maps[k]
                if propagated:
                    x = torch.cat([x, upsample(propagated[task], x.shape[-2:])], 1)
                features[task], predicted[task] = module(x)
            distilled.insert(0, self.ctam[k](features))
            auxiliary.insert(0, predicted)
            if k > 0:
                propagated = self.fpma[k - 1](distilled[0])
        final = {}
        for task in self.tasks:
            scales = [scale[task] for scale in distilled]
            scales = scales if self.csam is None else self.csam[task](scales)
            final[task] = upsample(self.heads[task](scales), image.shape[-2:])
        return Outputs(final, auxiliary)
