"""Simple feature pyramid: maps of several scales from the one map of a plain vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

WIDTH = 256


class SimplePyramid(nn.ModuleList):
    """The last map of a plain ViT, its only strong one, resampled to each scale by a branch of its own.

    Li, Mao, Girshick, He, "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022,
    arXiv:2203.16527, section 3 and appendix A.2. A finer scale takes one deconvolution (2x2, stride 2) for each
    doubling, every one halving the width, with layer norm and GELU between two of them; the map's own scale none; a
    coarser one max-pooling. Then, at each scale, a 1x1 convolution to the pyramid's width and a 3x3 one, both without
    bias and with layer norm over the channels, so that a batch of one trains.

    (B, in, h, w) -> (B, out, h * stride / s, w * stride / s) for every s of `strides`. Scales coarser than the map
    need sides that divide by s / stride; otherwise pooling drops the last row or column.

    stride: image pixels per pixel of the map. strides: those wanted; the ratio of the two is a power of two.
    """

    def __init__(self, in_channels: int, stride: int, strides: Sequence[int], out_channels: int = WIDTH):
        super().__init__(_branch(in_channels, stride, wanted, out_channels) for wanted in strides)
        self.out_channels = [out_channels] * len(strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [branch(x) for branch in self]


def _branch(in_channels: int, stride: int, wanted: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = in_channels
    for index in range(round(math.log2(stride / wanted))):  # none for a coarser scale
        if index > 0:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    if wanted > stride:
        layers.append(nn.MaxPool2d(wanted // stride))
    for kernel in (1, 3):
        layers += [nn.Conv2d(width, out_channels, kernel, padding=kernel // 2, bias=False), LayerNorm2d(out_channels)]
        width = out_channels
    return nn.Sequential(*layers)
