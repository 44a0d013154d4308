"""The DeepLabV3 prediction head: atrous spatial pyramid pooling on the deepest map, as released with torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.blocks import ConvNorm, PredictionConv

WIDTH = 256
# Stride of the map -> dilations of its three 3x3 convolutions. The paper gives those for 8 and 16; at 32 the
# same span of the image is kept again, 96, 192 and 288 pixels between taps.
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}


class AtrousConv(nn.Sequential):
    """3x3 convolution of a given dilation, BN, ReLU: (B, in, H, W) -> (B, out, H, W), H and W of any size."""

    def __init__(self, in_channels: int, out_channels: int, rate: int):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.out_channels = out_channels


class ImagePooling(nn.Module):
    """The mean over the map, a 1x1 convolution, ReLU, at every pixel: (B, in, H, W) -> (B, out, H, W).

    Not as in the paper, there is no batch norm here but a bias: on one value per image and channel, training
    statistics do not exist for a batch of one (torch refuses it), and are two-valued for a batch of two.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x.mean((2, 3), keepdim=True))).expand(-1, -1, *x.shape[-2:])


class ASPP(nn.Module):
    """A 1x1 convolution, three dilated 3x3 ones and the image's mean, concatenated and mixed.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv:1706.05587, section 3.3.
    (B, in, H, W) -> (B, out, H, W). A map smaller than a rate is fine: the outer taps then read zeros.
    """

    def __init__(self, in_channels: int, rates: Sequence[int], out_channels: int = WIDTH):
        super().__init__()
        branches: list[ConvNorm | AtrousConv | ImagePooling] = [
            ConvNorm(in_channels, out_channels),
            *(AtrousConv(in_channels, out_channels, rate) for rate in rates),
            ImagePooling(in_channels, out_channels),
        ]
        self.branches = nn.ModuleList(branches)
        self.mix = ConvNorm(sum(branch.out_channels for branch in branches), out_channels)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([branch(x) for branch in self.branches], 1))


class ASPPHead(nn.Module):
    """ASPP on the deepest scale, dropout, a 3x3 conv + BN + ReLU, 1x1 convolution to the task's channels.

    The 3x3 convolution is no part of the paper's text; the released heads (torchvision's, and those of the multi-task
    codes) have it.

    It takes what `MultiScaleHead` takes, so that one may stand for the other, but reads the deepest scale alone
    and predicts there: nothing finer is looked at, which is why the backbone is normally a dilated one.

    channels: for every scale, fine to coarse, the channels of its maps.
    output_stride: image pixels per pixel of the deepest map, 8, 16 or 32; it fixes the rates.
    dropout: probability of a value of ASPP's result to be dropped in training, as in torchvision's head; the paper
        names none.
    forward: [[(B, C, h, w), ...] of each scale] -> (B, out, h, w) at the size of the deepest scale.

    Raises ValueError for an output stride without rates.
    """

    def __init__(
        self,
        channels: Sequence[Sequence[int]],
        out_channels: int,
        output_stride: int = 16,
        dropout: float = 0.5,
    ):
        super().__init__()
        if output_stride not in RATES:
            allowed = ", ".join(map(str, RATES))
            raise ValueError(f"output_stride {output_stride!r} has no rates; allowed: {allowed}.")
        self.aspp = ASPP(sum(channels[-1]), RATES[output_stride])
        self.dropout = nn.Dropout(dropout)
        self.refine = ConvNorm(self.aspp.out_channels, WIDTH, 3)
        self.predict = PredictionConv(self.refine.out_channels, out_channels)
        self.out_channels = out_channels

    def forward(self, scales: Sequence[Sequence[Tensor]]) -> Tensor:
        return self.predict(self.refine(self.dropout(self.aspp(torch.cat(list(scales[-1]), 1)))))
