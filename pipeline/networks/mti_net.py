"""MTI-Net: tasks inform each other at every scale, and coarse scales inform finer ones.

Vandenhende, Georgoulis, Van Gool, "MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task Learning",
ECCV 2020, arXiv:2001.06902. Shapes: B batch, C_k channels of scale k, H, W; T tasks; K = 4 scales, fine to coarse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.blocks import ResidualBlock
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.outputs import Outputs
from pipeline.networks.pad_net import Distillation
from pipeline.networks.sca.fpma import FeaturePropagation
from pipeline.networks.sca.task_features import scale_features


class ConvolutionalPropagation(FeaturePropagation):
    """FPM, the module that FPMA descends from: convolutions instead of window attention make the mask.

    {task: (B, C, H, W)} -> the same; `mask` as in FPMA. The function before the softmax is a bottleneck of two
    residual blocks at a quarter of the concatenation's T*C channels and a 1x1 convolution back to them.
    """

    def __init__(self, channels: int, tasks: Sequence[str], mask: str = "channels"):
        super().__init__(channels, tasks, mask)
        width = channels * len(self.tasks)
        inside = width // 4
        self.attention = nn.Sequential(
            ResidualBlock(width, inside), ResidualBlock(inside, inside), nn.Conv2d(inside, width, 1)
        )


class MTINet(nn.Module):
    """Image (B, 3, H, W) -> Outputs; its `auxiliary` predict all T tasks at each of K scales, fine to coarse.

    tasks, auxiliary_tasks: {task: channels}, together at least two. Auxiliary tasks are predicted at every
    scale, are propagated, and give to the distillation; they have no final prediction.

    Task features come first, coarse to fine: each scale's input is the backbone's map and, per task, what the
    next coarser scale propagates. They are propagated before they are distilled. Then every scale is distilled
    by itself, and a head per task aggregates its scales.

    Option mask, over what the softmax of the propagation runs: see `FeaturePropagation`.

    Raises ValueError for fewer than two tasks.
    """

    OPTIONS: ClassVar[dict[str, tuple]] = {"mask": ("channels", "tasks")}

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, int],
        auxiliary_tasks: Mapping[str, int],
        *,
        mask: str = "channels",
    ):
        super().__init__()
        everything = {**tasks, **auxiliary_tasks}
        if len(everything) < 2:
            raise ValueError(
                f"mti_net distils between tasks and needs at least 2 (main and auxiliary), got {list(everything)}. "
                "Use single_task for one."
            )
        self.backbone = backbone
        channels = backbone.channels
        self.features = scale_features(everything, channels)
        self.propagate = nn.ModuleList(ConvolutionalPropagation(c, tuple(everything), mask) for c in channels[1:])
        distil = [Distillation(c, tuple(everything), tuple(tasks)) for c in channels]
        self.distil = nn.ModuleList(distil)
        widths = [[block.out_channels] for block in distil]
        self.heads = nn.ModuleDict({t: MultiScaleHead(widths, n) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> Outputs:
        features, predictions = self._initial(self.backbone(image))
        distilled = [distil(x) for distil, x in zip(self.distil, features, strict=True)]
        final = {task: head([[scale[task]] for scale in distilled]) for task, head in self.heads.items()}
        return Outputs({task: resize(x, image.shape[-2:]) for task, x in final.items()}, predictions)

    def _initial(self, maps: Sequence[Tensor]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Coarse to fine: K maps -> K x {task: features}, K x {task: prediction}."""
        features: list[dict[str, Tensor]] = []
        predictions: list[dict[str, Tensor]] = []
        propagated: dict[str, Tensor] = {}
        for k in reversed(range(len(maps))):
            found, predicted = self.features[k](maps[k], propagated)
            features.insert(0, found)
            predictions.insert(0, predicted)
            if k > 0:
                propagated = self.propagate[k - 1](found)
        return features, predictions
