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

from pipeline.bilinear import resize
from pipeline.nets.backbones import Backbone
from pipeline.nets.blocks import ConvNorm, Prediction, init_weights
from pipeline.nets.heads import MultiScaleHead
from pipeline.nets.outputs import Outputs

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
        messages = [message(features[source]) for source, message in self.messages[target].items()]
        if self.kind == "C":
            messages = [gate.sigmoid() * x for gate, x in (both.chunk(2, 1) for both in messages)]
        total = sum(messages[1:], start=messages[0])
        return self.gates[target](features[target]).sigmoid() * total if target in self.gates else total


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class Aggregation(nn.Module):
    """All scales, concatenated at the finest one, through 1x1 conv + BN + ReLU: K maps -> (B, out, H, W).

    As in `MultiScaleHead` the convolution is applied before upsampling, with which it commutes: every scale
    is mixed at its own size, and the results are upsampled and summed.
    """

    def __init__(self, channels: Sequence[int], out_channels: int):
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(c, out_channels, 1, bias=False) for c in channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.out_channels = out_channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        mixed = [resize(mix(x), maps[0].shape[-2:]) for mix, x in zip(self.mix, maps, strict=True)]
        return F.relu(self.norm(sum(mixed[1:], start=mixed[0])))


class Bottleneck(nn.Module):
    """Residual bottleneck (He et al., CVPR 2016, fig. 5 right), a quarter as wide inside: map -> same shape."""

    def __init__(self, channels: int):
        super().__init__()
        inside = channels // 4
        self.blocks = nn.Sequential(
            ConvNorm(channels, inside), ConvNorm(inside, inside, 3), ConvNorm(inside, channels, act=False)
        )
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.blocks(x))


class InitialPrediction(nn.Module):
    """Two bottlenecks, then a 1x1 prediction that only the loss sees.

    (B, C, H, W) -> features (B, C, H, W), prediction (B, task channels, H, W).
    """

    def __init__(self, channels: int, task_channels: int):
        super().__init__()
        self.blocks = nn.Sequential(Bottleneck(channels), Bottleneck(channels))
        self.predict = Prediction(channels, task_channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(x)
        return features, self.predict(features)


class PADNet(nn.Module):
    """Image (B, 3, H, W) -> Outputs; its `auxiliary` is one dict, the initial predictions of all T tasks.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks (in the paper normals and
    edges) are predicted initially and give to the distillation; they have no final prediction.

    Everything after the backbone happens at its finest scale (stride 4) and is 256 channels wide. The paper
    aggregates several depths of the encoder for any backbone, and so does this class.

    Option distillation: see `Distillation`.

    Not as in the 2018 paper, but as in the HRNet version that MTI-Net's authors compare with: bottlenecks
    as task features, and the final decoder is `MultiScaleHead` on one map, not two deconvolutions to the image size.

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
        self.aggregate = Aggregation(backbone.channels, WIDTH)
        self.initial = nn.ModuleDict({t: InitialPrediction(WIDTH, n) for t, n in everything.items()})
        self.distil = Distillation(WIDTH, tuple(everything), tuple(tasks), distillation)
        self.heads = nn.ModuleDict({t: MultiScaleHead([[self.distil.out_channels]], n) for t, n in tasks.items()})
        for part in (self.aggregate, self.initial, self.distil, self.heads):
            init_weights(part)

    def forward(self, image: Tensor) -> Outputs:
        shared = self.aggregate(self.backbone(image))
        features, initial = {}, {}
        for task, module in self.initial.items():
            features[task], initial[task] = module(shared)
        final = {task: self.heads[task]([[x]]) for task, x in self.distil(features).items()}
        return Outputs({task: resize(x, image.shape[-2:]) for task, x in final.items()}, [initial])
