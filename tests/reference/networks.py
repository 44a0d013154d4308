"""The networks other than sequential attention (see sca.py) as published, step by step: what ours must equal.

Nothing is shared, reordered, batched or fused: every concatenation is made at the size of its finest map, every pair of
tasks is a convolution or an attention of its own, attention has its whole matrix. Parameters have the names of ours in
`pipeline.networks`, so either loads the other's state dict; where ours keeps two convolutions in one tensor (PAD-Net's
gate and message), the plain form cuts it in two. The backbone is ours; the networks that mix between a backbone's
stages run timm's modules one after the other, at the image enlarged to multiples of 32.

Which state of which repository a form describes, as run on 2026-11-27:

- baselines, MTI-Net, PAD-Net, cross-stitch, NDDR-CNN, DeepLab head: Multi-Task-Learning-PyTorch at ed3d9ac
  (MTI-Net and PAD-Net after arXiv:2001.06902 and arXiv:1805.04409, the stitched ones after arXiv:1604.03539 and
  arXiv:1801.08297). Published there, and kept here: MTI-Net's softmax over neighbouring channels, PAD-Net's gate from
  the giving task, heads with a bias before batch norm.
- ATRC: atrc at 76d8055, arXiv:2104.13874, with the global context between every pair of tasks.

Ours by choice, in these forms too: the DeepLab head's image pooling has a bias and no batch norm; the stitched
networks' head reads all four maps, and HRNets are stitched as well; NDDR-CNN's shortcut; ATRC's search is left out.

Shapes: B batch, C channels, H, W; T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.registry import Backbone, Outputs
from tests.reference.encoder_fusion import PlainCrossStitch, PlainNddrCnn, Tasks, outputs
from tests.reference.sca import (
    PlainHead,
    PlainResidualBlock,
    PlainSqueezeExcite,
    PlainTaskFeatures,
    conv_norm,
    pairs,
    upsample,
)

PAD_NET_WIDTH = 256


class PlainASPPHead(nn.Module):
    """DeepLabV3: four convolutions of growing reach and the image's mean; dropout; 3x3 conv + BN + ReLU; 1x1 conv."""

    def __init__(self, channels: int, out: int, output_stride: int):
        super().__init__()
        rates = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}[output_stride]
        self.aspp = nn.Module()
        self.aspp.branches = nn.ModuleList([conv_norm(channels, 256), *(conv_norm(channels, 256, 3) for _ in rates)])
        for rate, branch in zip(rates, self.aspp.branches[1:], strict=True):
            branch[0].dilation = branch[0].padding = (rate, rate)
        self.aspp.branches.append(nn.ModuleDict({"conv": nn.Conv2d(channels, 256, 1)}))
        self.aspp.mix = conv_norm(5 * 256, 256)
        self.refine = conv_norm(256, 256, 3)
        self.predict = nn.Conv2d(256, out, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[-1]
        *convolutions, pooling = self.aspp.branches
        mean = pooling["conv"](F.adaptive_avg_pool2d(x, 1)).relu()
        found = [*(branch(x) for branch in convolutions), mean.repeat(1, 1, *x.shape[-2:])]
        x = F.dropout(self.aspp.mix(torch.cat(found, 1)), 0.5, self.training)
        return self.predict(self.refine(x))


def make_plain_head(kind: str, backbone: Backbone, out: int) -> nn.Module:
    if kind == "aspp":
        return PlainASPPHead(backbone.channels[-1], out, backbone.strides[-1])
    return PlainHead(sum(backbone.channels), out)


class PlainSingleTask(nn.Module):
    def __init__(self, backbone: Backbone, tasks: Tasks, auxiliary_tasks: Tasks, *, head: str = "multi_scale"):
        super().__init__()
        ((self.task, n),) = tasks.items()
        self.backbone = backbone
        self.head = make_plain_head(head, backbone, n)

    def forward(self, image: Tensor) -> Outputs:
        return Outputs({self.task: upsample(self.head(self.backbone(image)), image.shape[-2:])})


class PlainMultiTask(nn.Module):
    def __init__(self, backbone: Backbone, tasks: Tasks, auxiliary_tasks: Tasks, *, head: str = "multi_scale"):
        super().__init__()
        self.tasks, self.auxiliary_tasks = list(tasks), list(auxiliary_tasks)
        self.backbone = backbone
        everything = {**tasks, **auxiliary_tasks}
        self.heads = nn.ModuleDict({t: make_plain_head(head, backbone, n) for t, n in everything.items()})

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        predicted = {task: head(maps) for task, head in self.heads.items()}
        return outputs(predicted, self.tasks, self.auxiliary_tasks, image)


# ---- distillation between tasks: PAD-Net and MTI-Net -------------------------------------------------------------


class PlainDistillation(nn.Module):
    """F_t + sum over a != t of sigmoid(G F_a) * (W F_a), and its variants (`networks.pad_net.Distillation`)."""

    def __init__(self, c: int, tasks: Sequence[str], targets: Sequence[str], kind: str = "C"):
        super().__init__()
        self.kind, self.channels, self.targets = kind, c, list(targets)
        self.messages, self.gates = nn.ModuleDict(), nn.ModuleDict()
        for t in targets if kind != "A" else ():
            width = 2 * c if kind == "C" else c
            sources = {a: nn.Conv2d(c, width, 3, padding=1, bias=False) for a in pairs(tasks, t)}
            self.messages[t] = nn.ModuleDict(sources)
            if kind == "C_target_gate":
                self.gates[t] = nn.Conv2d(c, c, 3, padding=1, bias=False)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for t in self.targets:
            if self.kind == "A":
                out[t] = torch.cat(list(features.values()), 1)
                continue
            out[t] = features[t]
            for a, message in self.messages[t].items():
                x = features[a]
                if self.kind == "C":
                    gate = F.conv2d(x, message.weight[: self.channels], padding=1).sigmoid()
                    out[t] = out[t] + gate * F.conv2d(x, message.weight[self.channels :], padding=1)
                elif self.kind == "C_target_gate":
                    out[t] = out[t] + self.gates[t](features[t]).sigmoid() * message(x)
                else:
                    out[t] = out[t] + message(x)
        return out


class PlainBottleneck(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.blocks = nn.Sequential(conv_norm(a, b // 4), conv_norm(b // 4, b // 4, 3), conv_norm(b // 4, b, act=False))
        self.shortcut = nn.Identity() if a == b else conv_norm(a, b, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.blocks(x) + self.shortcut(x)).relu()


class PlainBottlenecks(nn.Module):
    def __init__(self, a: int, out: int):
        super().__init__()
        self.blocks = nn.Sequential(PlainBottleneck(a, PAD_NET_WIDTH), PlainBottleneck(PAD_NET_WIDTH, PAD_NET_WIDTH))
        self.predict = nn.Conv2d(PAD_NET_WIDTH, out, 1)


class PlainPADNet(nn.Module):
    def __init__(self, backbone: Backbone, tasks: Tasks, auxiliary_tasks: Tasks, *, distillation: str = "C"):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        self.backbone = backbone
        width = sum(backbone.channels)
        self.aggregate = nn.ModuleDict({"mix": nn.Conv2d(width, width, 1), "norm": nn.BatchNorm2d(width)})
        self.initial = nn.ModuleDict({t: PlainBottlenecks(width, n) for t, n in everything.items()})
        self.distil = PlainDistillation(PAD_NET_WIDTH, list(everything), list(tasks), distillation)
        decoded = PAD_NET_WIDTH * (len(everything) if distillation == "A" else 1)
        self.decode = nn.ModuleDict({t: PlainBottlenecks(decoded, n) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        x = torch.cat([upsample(scale, maps[0].shape[-2:]) for scale in maps], 1)
        x = self.aggregate["norm"](self.aggregate["mix"](x)).relu()
        features = {t: branch.blocks(x) for t, branch in self.initial.items()}
        initial = {t: branch.predict(features[t]) for t, branch in self.initial.items()}
        distilled = self.distil(features)
        final = {t: branch.predict(branch.blocks(distilled[t])) for t, branch in self.decode.items()}
        return Outputs({t: upsample(x, image.shape[-2:]) for t, x in final.items()}, [initial])


class PlainPropagation(nn.Module):
    """FPM: a mask from all tasks' maps, the masked maps reduced to one, each task's gated share added to its map."""

    def __init__(self, c: int, tasks: Sequence[str], mask: str):
        super().__init__()
        self.tasks, self.mask, width = list(tasks), mask, c * len(tasks)
        self.attention = nn.Sequential(
            PlainResidualBlock(width, width // 4),
            PlainResidualBlock(width // 4, width // 4),
            nn.Conv2d(width // 4, width, 1),
        )
        self.reduce = PlainResidualBlock(width, c)
        self.excite = nn.ModuleDict({t: PlainSqueezeExcite(c) for t in tasks})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = torch.cat([features[t] for t in self.tasks], 1)
        logits, n, c = self.attention(maps), len(self.tasks), maps.shape[1] // len(self.tasks)
        masks = torch.empty_like(logits)
        for i in range(c):  # the T channels that share a softmax: neighbours (the slip), or the i-th of each task
            group = [n * i + t for t in range(n)] if self.mask == "channels" else [c * t + i for t in range(n)]
            masks[:, group] = logits[:, group].softmax(1)
        shared = self.reduce(maps * masks)
        return {t: features[t] + self.excite[t](shared) for t in self.tasks}


class PlainMTINet(nn.Module):
    def __init__(self, backbone: Backbone, tasks: Tasks, auxiliary_tasks: Tasks, *, mask: str = "channels"):
        super().__init__()
        everything, c = {**tasks, **auxiliary_tasks}, backbone.channels
        self.backbone = backbone
        coarser = [c[1], c[2], c[3], 0]
        self.features = nn.ModuleList(
            nn.ModuleDict({t: PlainTaskFeatures(c[k] + coarser[k], c[k], n) for t, n in everything.items()})
            for k in range(4)
        )
        self.propagate = nn.ModuleList(PlainPropagation(c[k], list(everything), mask) for k in (1, 2, 3))
        self.distil = nn.ModuleList(PlainDistillation(c[k], list(everything), list(tasks)) for k in range(4))
        self.heads = nn.ModuleDict({t: PlainHead(sum(c), n) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        features: list[dict[str, Tensor]] = [{} for _ in maps]
        initial: list[dict[str, Tensor]] = [{} for _ in maps]
        for k in (3, 2, 1, 0):
            handed = self.propagate[k](features[k + 1]) if k < 3 else None
            for t, branch in self.features[k].items():
                x = maps[k] if handed is None else torch.cat([maps[k], upsample(handed[t], maps[k].shape[-2:])], 1)
                features[k][t], initial[k][t] = branch(x)
        distilled = [distil(x) for distil, x in zip(self.distil, features, strict=True)]
        final = {}
        for t, head in self.heads.items():
            final[t] = upsample(head([scale[t] for scale in distilled]), image.shape[-2:])
        return Outputs(final, initial)


# ---- ATRC --------------------------------------------------------------------------------------------------------


class PlainContext(nn.Module):
    """The target's pixel i gathers sum over j of q_i . k_j v_j / sum over j of q_i . k_j from the source's pixels j."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.query = nn.Sequential(conv_norm(a, b), conv_norm(b, b, act=False), nn.Softplus())
        self.key = nn.Sequential(conv_norm(a, b), conv_norm(b, b, act=False), nn.Softplus())
        self.value = conv_norm(a, b)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        query, key, value = self.query(target), self.key(source), self.value(source)
        weights = query.flatten(2).transpose(1, 2) @ key.flatten(2)  # (B, pixels of target, pixels of source)
        weights = weights / weights.sum(2, keepdim=True)
        return (value.flatten(2) @ weights.transpose(1, 2)).view(len(target), -1, *target.shape[-2:])


class PlainRefinement(nn.Module):
    def __init__(self, c: int, tasks: Sequence[str]):
        super().__init__()
        self.pooling = nn.ModuleDict({a: PlainContext(c, c // 2) for a in tasks})
        self.project = conv_norm(len(tasks) * (c // 2), c, act=False)
        self.fuse = conv_norm(2 * c, c)


class PlainATRC(nn.Module):
    def __init__(
        self,
        backbone: Backbone,
        tasks: Tasks,
        auxiliary_tasks: Tasks,
        *,
        deep_supervision: bool = False,
        dropout: float = 0.05,
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        self.backbone, self.dropout = backbone, dropout
        c = sum(backbone.channels) // 4
        self.features = nn.ModuleDict({t: conv_norm(sum(backbone.channels), c, 3) for t in everything})
        supervised = everything if deep_supervision else auxiliary_tasks
        self.initial = nn.ModuleDict({t: nn.Conv2d(c, n, 1) for t, n in supervised.items()})
        self.refine = nn.ModuleDict({t: PlainRefinement(c, list(everything)) for t in tasks})
        self.heads = nn.ModuleDict({t: nn.Conv2d(c, n, 1) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        x = torch.cat([upsample(scale, maps[0].shape[-2:]) for scale in maps], 1)
        features = {t: extract(x) for t, extract in self.features.items()}
        final = {}
        for t, refine in self.refine.items():
            contexts = torch.cat([pool(features[t], features[a]) for a, pool in refine.pooling.items()], 1)
            refined = refine.fuse(torch.cat([features[t], refine.project(contexts)], 1))
            refined = F.dropout2d(refined, self.dropout, self.training)
            final[t] = upsample(self.heads[t](refined), image.shape[-2:])
        initial = {t: predict(features[t]) for t, predict in self.initial.items()}
        return Outputs(final, [initial] if initial else [])


PLAIN: dict[str, type[nn.Module]] = {
    "single_task": PlainSingleTask,
    "multi_task": PlainMultiTask,
    "mti_net": PlainMTINet,
    "pad_net": PlainPADNet,
    "atrc": PlainATRC,
    "cross_stitch": PlainCrossStitch,
    "nddr_cnn": PlainNddrCnn,
}
