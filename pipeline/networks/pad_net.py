"""PAD-Net: predict every task once, let the tasks' features inform each other, predict again.

Xu, Ouyang, Wang, Sebe, "PAD-Net: Multi-Tasks Guided Prediction-and-Distillation Network", CVPR 2018,
arXiv:1805.04409. Shapes: B batch, C channels, H, W; T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.blocks import ConvNorm, PredictionConv
from pipeline.networks.outputs import Outputs

WIDTH = 256
DISTILLATIONS = ("C", "C_target_gate", "B", "A")


class Distillation(nn.Module):
    """Multi-modal distillation: each target task's map gathers from all other tasks' (PAD-Net, section 3.3).

    {task: (B, C, H, W)} of all `tasks` -> {target: (B, out_channels, H, W)}. W and G are 3x3 convolutions
    without bias, one per ordered pair of tasks unless said otherwise; s is the sigmoid.

    kind: "C" F_t + sum over a != t of s(G F_a) * (W F_a): the source's own map says what is worth passing on.
              MTI-Net's equation, and what the published PAD-Net scores with HRNet were measured with;
          "C_target_gate" F_t + s(G_t F_t) * sum of W F_a: the gate as PAD-Net's paper defines it, from the
              receiving map, one G per target;
          "B" F_t + sum of W F_a: messages without a gate;
          "A" the concatenation of all F, the same for every target.
    """

    def __init__(self, channels: int, tasks: Sequence[str], targets: Sequence[str], kind: str = "C"):
        super().__init__()
        assert kind in DISTILLATIONS, kind
        self.tasks, self.targets, self.kind = tuple(tasks), tuple(targets), kind
        pairs = {} if kind == "A" else {t: [a for a in tasks if a != t] for t in targets}
        width = 2 * channels if kind == "C" else channels  # with C, one convolution computes G and W
        self.messages = nn.ModuleDict(
            {t: nn.ModuleDict({a: _conv3x3(channels, width) for a in sources}) for t, sources in pairs.items()}
        )
        gated = targets if kind == "C_target_gate" else ()
        self.gates = nn.ModuleDict({t: _conv3x3(channels, channels) for t in gated})
        self.out_channels = channels * (len(self.tasks) if kind == "A" else 1)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.kind == "A":
            return dict.fromkeys(self.targets, torch.cat([features[task] for task in self.tasks], 1))
        return {task: features[task] + self._gather(task, features) for task in self.targets}

    def _gather(self, target: str, features: Mapping[str, Tensor]) -> Tensor:
        sources = self.messages[target]
        assert isinstance(sources, nn.ModuleDict)
        messages = [message(features[source]) for source, message in sources.items()]
        if self.kind == "C":
            messages = [gate.sigmoid() * x for gate, x in (both.chunk(2, 1) for both in messages)]
        total = sum(messages[1:], start=messages[0])
        return self.gates[target](features[target]).sigmoid() * total if target in self.gates else total


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class Aggregation(nn.Module):
    """All scales, upsampled to the finest and concatenated, through 1x1 conv + BN + ReLU at that full width.

    K maps (B, C_k, H_k, W_k), fine to coarse -> (B, sum of C_k, H_1, W_1), as in HRNetV2 (Sun et al.,
    arXiv:1904.04514). As in `MultiScaleHead` the convolution is applied before upsampling, with which it commutes:
    every scale meets its columns of the weight at its own size, and the results are upsampled and summed.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.channels = list(channels)
        width = sum(self.channels)
        self.mix = nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.out_channels = width

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        (finest, *coarser), (weight, *weights) = maps, self.mix.weight.split(self.channels, 1)
        mixed = F.conv2d(finest, weight, self.mix.bias)
        for x, columns in zip(coarser, weights, strict=True):
            mixed += resize(F.conv2d(x, columns), mixed.shape[-2:])
        return F.relu(self.norm(mixed))


class Bottleneck(nn.Module):
    """Residual bottleneck (He et al., CVPR 2016, fig. 5 right), a quarter of `out` wide inside.

    (B, in, H, W) -> (B, out, H, W). The shortcut is a 1x1 convolution + BN where the width changes.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        inside = out_channels // 4
        self.blocks = nn.Sequential(
            ConvNorm(in_channels, inside), ConvNorm(inside, inside, 3), ConvNorm(inside, out_channels, act=False)
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, act=False)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.blocks(x) + self.shortcut(x))


class TaskPrediction(nn.Module):
    """Two bottlenecks to WIDTH channels and a 1x1 prediction: a task's initial branch, and its decoder.

    (B, in, H, W) -> features (B, WIDTH, H, W), prediction (B, task channels, H, W).
    """

    def __init__(self, in_channels: int, task_channels: int):
        super().__init__()
        self.blocks = nn.Sequential(Bottleneck(in_channels, WIDTH), Bottleneck(WIDTH, WIDTH))
        self.predict = PredictionConv(WIDTH, task_channels)
        self.out_channels = WIDTH

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(x)
        return features, self.predict(features)


class PADNet(nn.Module):
    """Image (B, 3, H, W) -> Outputs; its `auxiliary` is one dict, the initial predictions of all T tasks.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks (in the paper normals and
    edges) are predicted initially and give to the distillation; they have no final prediction.

    Not as in the 2018 paper, but as in the HRNet version that MTI-Net's authors compare with: `Aggregation` at full
    width (HRNet-W18: 270 channels), two bottlenecks a task as its features (WIDTH = 256 channels) with the initial
    prediction, distillation, and two bottlenecks with a 1x1 prediction as decoder, not two deconvolutions to the image
    size. All of it happens at the finest scale, stride 4. With {semseg: 40, depth: 1} on hrnet_w18_small_v2 it has
    7.02 M parameters. Other backbones get the same at the width of theirs; the paper too aggregates several depths of
    any encoder. At the 3840 channels of a ResNet-50 the aggregation has 15 M parameters, and its map is 3840 wide.

    Option distillation: see `Distillation`. With A the decoder's first bottleneck has the T * 256 channels as input.

    Raises ValueError for fewer than two tasks.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {"distillation": DISTILLATIONS}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        distillation: str = "C",
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        if len(everything) < 2:
            raise ValueError(
                f"pad_net distils between tasks and needs at least 2 (main and auxiliary), got {list(everything)}. "
                "Use single_task for one."
            )
        self.backbone = backbone
        self.aggregate = Aggregation(backbone.channels)
        self.initial = nn.ModuleDict({t: TaskPrediction(self.aggregate.out_channels, n) for t, n in everything.items()})
        self.distil = Distillation(WIDTH, tuple(everything), tuple(tasks), distillation)
        self.decode = nn.ModuleDict({t: TaskPrediction(self.distil.out_channels, n) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        shared = self.aggregate(self.backbone(image))
        features, initial = {}, {}
        for task, module in self.initial.items():
            features[task], initial[task] = module(shared)
        final = {task: self.decode[task](x)[1] for task, x in self.distil(features).items()}
        return Outputs({task: resize(x, image.shape[-2:]) for task, x in final.items()}, [initial])
