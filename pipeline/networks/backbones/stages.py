"""A backbone run stage by stage, for networks that work between its stages. Shapes: B batch, C channels, H, W."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from timm.models import FeatureDictNet
from timm.models.convnext import ConvNeXtStage
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.hrnet import HighResolutionModule, HighResolutionNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from timm.models.regnet import RegStage
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import STRIDES, Backbone

SUITABLE = "hrnet_w18_small_v2, resnet18, resnet50, convnext_tiny, tf_efficientnet_lite0"


@dataclass(frozen=True)
class Maps:
    """Channels, and image pixels per pixel, of each map in a list."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Stages(ABC):
    """How a backbone is run: a stem, then four stages, each in two steps, `trunk` (all but its last block) and `last`.

    It owns no module: the backbone is an argument, so that one object serves copies of a backbone, and nothing
    appears twice in a network's state. Run in order, they give exactly what the backbone's forward gives:

        maps = stages.stem(backbone, stages.start(image))
        for k in range(len(stages.outputs)):
            maps = stages.run(backbone, k, maps)
            found.append(maps)
        stages.pyramid(found)  # equals backbone(image)

    Every map is (B, C, H, W). outputs, inner: for each stage, the maps that it ends with and those that its trunk
    ends with. after_stem: the maps that the stem ends with, or None where it is a part of the first stage.
    """

    def __init__(self, backbone: Backbone):
        self.after_stem, self.inner, self.outputs = self._measure(backbone)

    def start(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W) -> the input of the stem, enlarged as `Backbone` does it."""
        return [resize(image, [math.ceil(side / STRIDES[-1]) * STRIDES[-1] for side in image.shape[-2:]])]

    def stem(self, backbone: Backbone, maps: Sequence[Tensor]) -> list[Tensor]:
        """What `start` gives -> the input of the first stage: the same list where the stem is a part of that stage."""
        return list(maps)

    def run(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the stage before -> maps of this stage."""
        return self.last(backbone, stage, self.trunk(backbone, stage, maps))

    @abstractmethod
    def trunk(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the stage before -> maps before the last block of this stage."""

    @abstractmethod
    def last(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps before the last block of this stage -> maps of this stage."""

    @abstractmethod
    def pyramid(self, found: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The maps of each stage -> those four that the backbone returns, fine to coarse."""

    def _measure(self, backbone: Backbone) -> tuple[Maps | None, list[Maps], list[Maps]]:
        """Run once on tensors without data, at a size that the model takes."""
        net = copy.deepcopy(backbone).to("meta").eval()
        config = cast("Mapping[str, object]", backbone.net.pretrained_cfg)
        image = torch.empty(1, *cast("tuple[int, int, int]", config["input_size"]), device="meta")
        inner: list[Maps] = []
        outputs: list[Maps] = []
        found = []
        with torch.no_grad():
            (image,) = self.start(image)

            def describe(maps: Sequence[Tensor]) -> Maps:
                return Maps(tuple(x.shape[1] for x in maps), tuple(image.shape[2] // x.shape[2] for x in maps))

            maps = self.stem(net, [image])
            after_stem = None if maps[0] is image else describe(maps)
            for stage in range(len(STRIDES)):
                for step, sizes in ((self.trunk, inner), (self.last, outputs)):
                    maps = step(net, stage, maps)
                    sizes.append(describe(maps))
                found.append(maps)
        assert [x.shape[1] for x in self.pyramid(found)] == backbone.channels
        return after_stem, inner, outputs


class ChainStages(Stages):
    """A model whose modules follow each other. A stage ends with a map that the backbone returns, so with one.

    names: the modules in order, `taps` those whose results the backbone returns; the first `stem` of them are the stem.
    Raises ValueError if something else than one map passes between the stages.
    """

    def __init__(self, backbone: Backbone, names: Sequence[str], taps: Sequence[str], stem: int):
        ends = [names.index(tap) + 1 for tap in taps]
        self._stem = names[:stem]
        stages = [names[start:end] for start, end in zip([stem, *ends[:-1]], ends, strict=True)]
        stages = [[*before, *_blocks(backbone.net, module)] for *before, module in stages]
        self._trunks, self._lasts = [names[:-1] for names in stages], [names[-1:] for names in stages]
        self._channels_last = str(getattr(backbone.net, "output_fmt", "NCHW")).endswith("NHWC")
        super().__init__(backbone)

    def stem(self, backbone: Backbone, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self._apply(backbone.net, self._stem, maps, is_image=True)] if self._stem else list(maps)

    def trunk(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self._apply(backbone.net, self._trunks[stage], maps, is_image=stage == 0 and not self._stem)]

    def last(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self._apply(backbone.net, self._lasts[stage], maps)]

    def pyramid(self, found: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [x for maps in found for x in maps]

    def _apply(self, net: nn.Module, names: Sequence[str], maps: Sequence[Tensor], is_image: bool = False) -> Tensor:
        (x,) = maps
        if self._channels_last and not is_image:
            x = x.permute(0, 2, 3, 1)
        for name in names:
            x = net.get_submodule(name)(x)
        if not isinstance(x, Tensor):
            raise ValueError(_unsuitable(net, f"its {names[-1]} gives more than one map"))
        return x.permute(0, 3, 1, 2) if self._channels_last else x


class HRNetStages(Stages):
    """HRNet: stage k has k + 1 maps (k from 0), one for each resolution. The first is the stem and `layer1`.

    The last block of a stage is its last exchange between resolutions; the parallel convolutions belong to the trunk.
    """

    def trunk(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        net = _hrnet(backbone)
        if stage == 0:
            (x,) = maps
            x = net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(x))))))
            for block in list(net.layer1)[:-1]:
                x = block(x)
            return [x]
        transition, (*modules, last) = self._parts(net, stage)
        # A new resolution comes from the coarsest map; a map that keeps its width passes through.
        branches = [maps[i] if isinstance(t, nn.Identity) else t(maps[-1]) for i, t in enumerate(transition)]
        for module in modules:
            branches = module(branches)
        return [branch(x) for branch, x in zip(last.branches, branches, strict=True)]

    def last(self, backbone: Backbone, stage: int, maps: Sequence[Tensor]) -> list[Tensor]:
        if stage == 0:
            return [_hrnet(backbone).layer1[-1](*maps)]
        _, (*_, last) = self._parts(_hrnet(backbone), stage)
        exchanged = []
        for sources in last.fuse_layers:
            first, *others = [source(x) for source, x in zip(sources, maps, strict=True)]
            exchanged.append(last.fuse_act(sum(others, start=first)))
        return exchanged

    def pyramid(self, found: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return list(found[-1])

    @staticmethod
    def _parts(net: HighResolutionNetFeatures, stage: int) -> tuple[nn.ModuleList, list[HighResolutionModule]]:
        return getattr(net, f"transition{stage}"), list(getattr(net, f"stage{stage + 1}"))


def _hrnet(backbone: Backbone) -> HighResolutionNetFeatures:
    assert isinstance(backbone.net, HighResolutionNetFeatures)
    return backbone.net


def split(backbone: Backbone) -> Stages:
    """The stages of a backbone. Raises ValueError, with suitable names, where timm's model cannot be run in stages."""
    net = backbone.net
    if isinstance(net, HighResolutionNetFeatures) and net.incre_modules is None:
        return HRNetStages(backbone)
    if isinstance(net, FeatureDictNet):
        names, taps = list(net), list(net.return_layers)
        # A first stage of known blocks is one module, and what precedes it the stem. Of others that can't be said.
        stem = names.index(taps[0]) if _blocks(net, taps[0]) != [taps[0]] else 0
        return ChainStages(backbone, names, taps, stem)
    if isinstance(net, EfficientNetFeatures | MobileNetV3Features):
        before = [name for name, _ in net.named_children() if name != "blocks"]
        blocks = [f"blocks.{i}" for i in range(len(net.blocks))]
        return ChainStages(backbone, [*before, *blocks], net.feature_info.module_name(), len(before))
    raise ValueError(_unsuitable(net, "timm does not run it module after module"))


def _unsuitable(net: nn.Module, why: str) -> str:
    name = type(net).__name__
    return f"This backbone ({name}) cannot be run stage by stage: {why}. Suitable are, for example, {SUITABLE}."


def _blocks(net: nn.Module, name: str) -> list[str]:
    """The blocks of a stage in order, if it is one of those that are known to do nothing but run them."""
    stage = net.get_submodule(name)
    if type(stage) in (nn.Sequential, RegStage):
        return [f"{name}.{child}" for child, _ in stage.named_children()]
    if isinstance(stage, ConvNeXtStage | SwinTransformerStage):
        return [f"{name}.downsample", *(f"{name}.blocks.{i}" for i in range(len(stage.blocks)))]
    return [name]
