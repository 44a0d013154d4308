"""ATRC: every task's features are refined by global context from every task, its own included.

Brüggemann, Kanakis, Obukhov, Georgoulis, Van Gool, "Exploring Relational Context for Multi-Task Dense PredictionConv",
ICCV 2021, arXiv:2104.13874. Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.blocks import ConvNorm, PredictionConv
from pipeline.networks.outputs import Outputs
from pipeline.networks.sca.attention import PositiveProjection, linear_attention, xavier


class ContextPooling(nn.Module):
    """CP block with the global context of the paper's sec. 3.2: the target asks, all of the source answers.

    Softplus makes queries and keys positive, so that the attention is q . k / sum(q . k), linear in the pixels.
    It is CAM's attention at another width: the context has `out_channels`, fewer than the features. It starts by
    Xavier's rule, as CAM does.

    target (B, C, H, W), source (B, C, h, w) -> (B, out_channels, H, W).
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.query = PositiveProjection(channels, out_channels)
        self.key = PositiveProjection(channels, out_channels)
        self.value = ConvNorm(channels, out_channels)
        self.out_channels = out_channels
        xavier(self)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        return linear_attention(self.query(target), self.key(source), self.value(source))


class Refinement(nn.Module):
    """The CP blocks of one target task, one for each source, and what joins their contexts to its features.

    target (B, C, H, W), {source: (B, C, h, w)} -> (B, C, H, W). The contexts, C / 2 channels each, are concatenated
    and projected to C channels (1x1 conv + BN), concatenated with the target's features, and fused (1x1 conv + BN +
    ReLU).
    """

    def __init__(self, channels: int, sources: Sequence[str]):
        super().__init__()
        self.pooling = nn.ModuleDict({source: ContextPooling(channels, channels // 2) for source in sources})
        self.project = ConvNorm(len(self.pooling) * (channels // 2), channels, act=False)
        self.fuse = ConvNorm(2 * channels, channels)
        self.out_channels = channels

    def forward(self, target: Tensor, sources: Mapping[str, Tensor]) -> Tensor:
        contexts = [pool(target, sources[source]) for source, pool in self.pooling.items()]
        return self.fuse(torch.cat([target, self.project(torch.cat(contexts, 1))], 1))


class ATRC(nn.Module):
    """Image (B, 3, H, W) -> Outputs.

    The backbone's maps, upsampled to the finest and concatenated (HRNetV2), give each task its features by a 3x3
    conv + BN + ReLU to a quarter of the channels; each main task's are refined and predict. The paper has HRNets
    only; with the wide maps of a ResNet-50 that first convolution alone has 33 M parameters a task.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks are sources and predict from
    their own features for the loss; they are no targets.
    deep_supervision: False as in the paper, whose main tasks have further predictions only to form the label
        contexts, on detached features; True lets every task's unrefined features predict for the loss.
    dropout: probability of a channel of the fused features to be dropped in training. 0.05 as in the released code;
        the paper names none, for which 0.0 stands.

    Left out: the architecture search, so every pair of tasks has the global context; the local and label contexts
    to choose from (the latter need depth and normals cut into classes, with losses of their own).

    Raises ValueError for fewer than two tasks.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {"deep_supervision": (False, True), "dropout": (0.05, 0.0)}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        deep_supervision: bool = False,
        dropout: float = 0.05,
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        if len(everything) < 2:
            raise ValueError(
                f"atrc relates tasks to each other and needs at least 2 (main and auxiliary), "
                f"got {list(everything)}. Use single_task for one."
            )
        self.backbone = backbone
        width = sum(backbone.channels)
        channels = width // 4
        self.features = nn.ModuleDict({task: ConvNorm(width, channels, 3) for task in everything})
        supervised = everything if deep_supervision else auxiliary_tasks
        self.initial = nn.ModuleDict({task: PredictionConv(channels, n) for task, n in supervised.items()})
        self.refine = nn.ModuleDict({task: Refinement(channels, tuple(everything)) for task in tasks})
        self.dropout = nn.Dropout2d(dropout)
        self.heads = nn.ModuleDict({task: PredictionConv(channels, n) for task, n in tasks.items()})
        self._start_without_contexts()

    def forward(self, image: Tensor) -> Outputs:
        maps = self.backbone(image)
        x = torch.cat([resize(scale, maps[0].shape[-2:]) for scale in maps], 1)
        features = {task: extract(x) for task, extract in self.features.items()}
        initial = {task: predict(features[task]) for task, predict in self.initial.items()}
        refined = {task: refine(features[task], features) for task, refine in self.refine.items()}
        raw = {task: head(self.dropout(refined[task])) for task, head in self.heads.items()}
        final = {task: resize(x, image.shape[-2:]) for task, x in raw.items()}
        return Outputs(final, [initial] if initial else [])

    def _start_without_contexts(self) -> None:
        """Zero the scale of every projection's batch norm, as in the released code.

        The fusion then sees the task's own features alone; contexts come in as the scale is learned, and what lies
        before it has no gradient in the first step.
        """
        for refine in self.refine.values():
            assert isinstance(refine, Refinement)
            norm = refine.project[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
