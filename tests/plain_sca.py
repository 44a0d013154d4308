"""Sequential attention as the paper's released network computes it, step by step: the reference of the fast form.

Nothing is shared, reordered or batched: every ordered pair of tasks and of scales is a call of its own with a query,
a key and a value of its own, every concatenation is made, and the head mixes all 1080 channels at the finest scale.
Parameters have the names of `pipeline.nets.sequential_attention`, so either loads the other's state dict.

Shapes: B batch, C channels, H, W. Options and sources as in `SequentialAttention`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from pipeline.nets import Backbone, Outputs


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def conv_norm(a: int, b: int, kernel: int = 1, act: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


def pairs(tasks: Sequence[str], target: str) -> list[str]:
    return [task for task in tasks if task != target]


class PlainResidualBlock(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.conv1, self.conv2 = conv_norm(a, b, 3), conv_norm(b, b, 3, act=False)
        self.shortcut = nn.Identity() if a == b else conv_norm(a, b, act=False)

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
    """Pre-norm window attention: pad, shift, cut into windows, attend under a mask, and all of it back."""

    def __init__(self, channels: int, heads: int, shift: int, window: int = 7):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, math.ceil(channels / heads), window)
        self.window, self.shift = window, shift

    def forward(self, x: Tensor) -> Tensor:
        (batch, height, width, channels), w = x.shape, self.window
        rows, columns = math.ceil(height / w), math.ceil(width / w)
        shift = [self.shift if side > w else 0 for side in (height, width)]
        region = torch.full((rows * w, columns * w), -1, device=x.device)  # -1: padding
        areas = [torch.arange(side, device=x.device) for side in (height, width)]
        areas = [(area >= s).long() for area, s in zip(areas, shift, strict=True)]  # 0: wraps to the far border
        region[:height, :width] = 2 * areas[0][:, None] + areas[1][None, :]
        y = F.pad(self.norm(x), (0, 0, 0, columns * w - width, 0, rows * w - height))
        y = y.roll([-s for s in shift], (1, 2))
        region = region.roll([-s for s in shift], (0, 1))
        region = region.view(rows, w, columns, w).transpose(1, 2).reshape(-1, w * w)
        mask = (region[:, :, None] != region[:, None, :]) * -100.0
        y = y.view(batch, rows, w, columns, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        y = self.attention(y, mask)
        y = y.view(batch, rows, columns, w, w, channels).transpose(2, 3).reshape(batch, rows * w, columns * w, channels)
        return x + y.roll(shift, (1, 2))[:, :height, :width]


class PlainWindowSelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int, depth: int):
        super().__init__()
        self.embed = nn.Conv2d(channels, channels, 1)
        self.norm_in, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.blocks = nn.Sequential(*(PlainWindowBlock(channels, heads, 3 * (i % 2)) for i in range(depth)))

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
        self.reduce = nn.ModuleDict({n: PlainResidualBlock(2 * c * (len(tasks) - 1), c) for n in names})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for t, cams in self.attention.items():
            gathered = [torch.cat([features[t], cam(features[t], features[a])], 1) for a, cam in cams.items()]
            reduce = self.reduce["shared"] if "shared" in self.reduce else self.reduce[t]
            out[t] = features[t] + reduce(torch.cat(gathered, 1))
        return out


class PlainFeaturePropagation(nn.Module):
    def __init__(self, c: int, tasks: Sequence[str], mask: str):
        super().__init__()
        self.tasks, self.mask = tuple(tasks), mask
        self.attention = PlainWindowSelfAttention(c * len(tasks), heads=4, depth=1)
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
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        ctam_reduction: str = "shared",
        fpma_mask: str = "channels",
        csam_attention: str = "shared",
        att: bool = True,
        ctam: bool = True,
        fpma: bool = True,
        csam: bool = True,
    ):
        super().__init__()
        everything, names = {**tasks, **auxiliary_tasks}, [*tasks, *auxiliary_tasks]
        self.tasks = tuple(tasks)
        self.backbone = backbone
        base = backbone.channels
        self.att = nn.ModuleList(PlainWindowSelfAttention(c, heads=6, depth=2) for c in base) if att else None
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
            PlainFeaturePropagation(c, names, fpma_mask) if fpma else nn.Identity() for c in channels[1:]
        )
        self.csam = (
            nn.ModuleDict({t: PlainCrossScaleAttention(channels, csam_attention) for t in tasks}) if csam else None
        )
        width = sum(c * max(1, 2 * (3 - k)) for k, c in enumerate(channels)) if csam else sum(channels)
        self.heads = nn.ModuleDict({t: PlainHead(width, n) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
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
