"""Convolutional building blocks. Shapes: B batch, C channels, H, W."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, with a ReLU unless `act` is false: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, act: bool = True):
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if act else []))
        self.out_channels = out_channels

    def folded(self, x: Tensor, fold: Callable[[Tensor], Tensor]) -> Tensor:
        """As `forward`, with the convolution's weight replaced by `fold(weight)`: for an x with fewer channels."""
        conv, *rest = self
        return nn.Sequential(*rest)(F.conv2d(x, fold(conv.weight), padding=conv.padding))


class ResidualBlock(nn.Module):
    """Basic block of He et al. (CVPR 2016, fig. 5 left): two 3x3 convolutions beside a shortcut.

    (B, in, H, W) -> (B, out, H, W). The shortcut is a 1x1 convolution where the width changes.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, act=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, act=False)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))

    def folded(self, x: Tensor, fold: Callable[[Tensor], Tensor]) -> Tensor:
        """As `forward` where the width changes, with the weights that x meets replaced by `fold(weight)`."""
        return F.relu(self.conv2(self.conv1.folded(x, fold)) + self.shortcut.folded(x, fold))


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from all channels' means (Hu et al., CVPR 2018).

    (B, C, H, W) -> (B, C, H, W); `reduction` is the ratio between C and the hidden width.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * self.excite(gate).sigmoid()


class Prediction(nn.Conv2d):
    """1x1 convolution to a task's channels: (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)


def init_weights(module: nn.Module) -> None:
    """Initialise a decoder: He for convolutions, 0.01 for predictions, truncated 0.02 for linear layers.

    The small predictions start the losses near those of a constant guess, whatever the width before them.
    """
    for layer in module.modules():
        if isinstance(layer, Prediction):
            nn.init.normal_(layer.weight, std=0.01)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
