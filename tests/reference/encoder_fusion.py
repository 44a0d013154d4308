"""Networks with one encoder per task, cross-stitch and NDDR-CNN, as published: see plain_networks, which lists them."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.networks.registry import Backbone, Outputs
from tests.reference.sca import PlainHead, conv_norm, upsample

Tasks = Mapping[str, int]


def outputs(predicted: Mapping[str, Tensor], tasks: Sequence[str], auxiliary: Sequence[str], image: Tensor) -> Outputs:
    """Predictions of main tasks at the image's size, those of auxiliary tasks as they are."""
    final = {t: upsample(predicted[t], image.shape[-2:]) for t in tasks}
    return Outputs(final, [{t: predicted[t] for t in auxiliary}] if auxiliary else [])


class PlainCrossStitchUnit(nn.Module):
    def __init__(self, c: int, tasks: Sequence[str], stitch: str):
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(len(tasks), len(tasks), c if stitch == "channel" else 1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        alpha = self.alpha[:, :, :, None, None]
        return [sum(alpha[t, s] * x for s, x in enumerate(maps)) for t in range(len(maps))]


class PlainNDDRUnit(nn.Module):
    def __init__(self, c: int, tasks: Sequence[str]):
        super().__init__()
        self.reduce = nn.ModuleDict({t: conv_norm(len(tasks) * c, c) for t in tasks})
        for layer in self.reduce.values():
            layer[1].momentum = 0.05

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [reduce(torch.cat(list(maps), 1)) for reduce in self.reduce.values()]


class PlainEncoderFusion(nn.Module, ABC):
    """timm's ResNets (`layer1` to `layer4`) and HRNets (`stage2` to `stage4`), their tasks' maps mixed in between."""

    nddr = False

    def __init__(self, backbone: Backbone, tasks: Tasks, auxiliary_tasks: Tasks, **options: str | bool | float):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        self.tasks, self.auxiliary_tasks, self.everything = list(tasks), list(auxiliary_tasks), list(everything)
        self.is_hrnet = hasattr(backbone.net, "stage4")
        c = backbone.channels
        self.backbones = nn.ModuleDict({t: copy.deepcopy(backbone) for t in everything})
        first = backbone.net.layer1[-1]
        first = (first.conv3 if hasattr(first, "conv3") else first.conv2).out_channels
        widths = [[first], c[:2], c[:3], c] if self.is_hrnet else [[each] for each in c]
        stem = [backbone.net.bn1.num_features] if self.nddr and not self.is_hrnet else []
        self.fuse_stem = nn.ModuleList(self.unit(each, **options) for each in stem)
        self.fuse = nn.ModuleList(nn.ModuleList(self.unit(each, **options) for each in stage) for stage in widths)
        self.heads = nn.ModuleDict({t: PlainHead(sum(c), n) for t, n in everything.items()})
        self.shortcut = nn.ModuleDict()
        if options.get("shortcut"):
            levels = [stem, *widths] if stem else widths
            for t in everything:
                self.shortcut[t] = nn.ModuleList(
                    conv_norm(sum(level[min(i, len(level) - 1)] for level in levels), out)
                    for i, out in enumerate(levels[-1])
                )

    @abstractmethod
    def unit(self, c: int, **options: str | bool | float) -> nn.Module:
        """What mixes the encoders at one place, where maps have `c` channels."""

    def forward(self, image: Tensor) -> Outputs:
        enlarged = upsample(image, [math.ceil(side / 32) * 32 for side in image.shape[-2:]])
        maps = [[self.stem(t, enlarged)] for t in self.everything]  # of each task, a list by resolution
        mixed = []
        if self.fuse_stem:
            maps = self.mix(self.fuse_stem, maps)
            mixed.append(maps)
        for k in range(4):
            maps = [self.stage(t, k, own) for t, own in zip(self.everything, maps, strict=True)]
            maps = self.mix(self.fuse[k], maps)
            mixed.append(maps)
        predicted = {}
        for t, task in enumerate(self.everything):
            levels = [level[t] for level in mixed]
            if self.shortcut:
                joined = []
                for i, x in enumerate(levels[-1]):
                    sources = [upsample(level[min(i, len(level) - 1)], x.shape[-2:]) for level in levels]
                    joined.append(self.shortcut[task][i](torch.cat(sources, 1)))
                levels[-1] = joined
            read = levels[-1] if self.is_hrnet else [level[0] for level in levels[-4:]]
            predicted[task] = self.heads[task](read)
        return outputs(predicted, self.tasks, self.auxiliary_tasks, image)

    def stem(self, task: str, x: Tensor) -> Tensor:
        net = self.backbones[task].net
        if self.is_hrnet:
            return net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(x))))))
        return net.maxpool(net.act1(net.bn1(net.conv1(x))))

    def stage(self, task: str, k: int, maps: list[Tensor]) -> list[Tensor]:
        net = self.backbones[task].net
        if k == 0 or not self.is_hrnet:
            return [getattr(net, f"layer{k + 1}")(maps[0])]
        transition = getattr(net, f"transition{k}")
        given = [maps[i] if isinstance(t, nn.Identity) else t(maps[-1]) for i, t in enumerate(transition)]
        return list(getattr(net, f"stage{k + 1}")(given))

    @staticmethod
    def mix(units: Sequence[nn.Module], maps: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        by_resolution = [unit([own[i] for own in maps]) for i, unit in enumerate(units)]
        return [[tasks[t] for tasks in by_resolution] for t in range(len(maps))]


class PlainCrossStitch(PlainEncoderFusion):
    def unit(self, c: int, *, stitch: str = "channel", own_share: float = 0.9) -> nn.Module:
        return PlainCrossStitchUnit(c, self.everything, stitch)


class PlainNddrCnn(PlainEncoderFusion):
    nddr = True

    def unit(self, c: int, *, shortcut: bool = False) -> nn.Module:
        return PlainNDDRUnit(c, self.everything)
