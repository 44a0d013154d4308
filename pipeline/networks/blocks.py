"""Convolutional building blocks, and how they start. Shapes: B batch, C channels, H, W."""

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

    def with_merged_weight(self, x: Tensor, fold: Callable[[Tensor], Tensor]) -> Tensor:
        """As `forward`, with the convolution's weight replaced by `fold(weight)`: for an x with fewer channels."""
        conv, *rest = self
        assert isinstance(conv, nn.Conv2d)
        return nn.Sequential(*rest)(F.conv2d(x, fold(conv.weight), padding=conv.padding))


class ResidualBlock(nn.Module):
    """Basic block of He et al. (CVPR 2016, fig. 5 left): two 3x3 convolutions beside a shortcut.

    (B, in, H, W) -> (B, out, H, W). The shortcut is a 1x1 convolution where the width changes. momentum: of its batch
    norms.
    """

    def __init__(self, in_channels: int, out_channels: int, momentum: float = 0.1):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, act=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, act=False)
        self.out_channels = out_channels
        set_momentum(self, momentum)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))

    def with_merged_weight(self, x: Tensor, fold: Callable[[Tensor], Tensor]) -> Tensor:
        """As `forward` where the width changes, with the weights that x meets replaced by `fold(weight)`."""
        assert isinstance(self.shortcut, ConvNorm)
        return F.relu(self.conv2(self.conv1.with_merged_weight(x, fold)) + self.shortcut.with_merged_weight(x, fold))


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


class PredictionConv(nn.Conv2d):
    """1x1 convolution to a task's channels: (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)


INITIALIZATIONS = ("released", "he")


def init_weights(network: nn.Module, initialization: str = "released") -> None:
    """Start the decoder of a network; what has a start of its own (`starts_itself`), a backbone say, is left alone.

    released: convolutions stay as they were made, which is torch's default (He's uniform with a = sqrt 5, so a third of
        He's variance) and Xavier's in CAM, as in the released codes of SCA, MTI-Net and ATRC.
    he: He's normal for convolutions (a transposed one, InvPT's, stays as it was made), 0.01 for predictions, whose
        losses then start near those of a constant guess whatever the width before them; biases 0.
    Linear layers (window attention) start truncated normal, 0.02, with bias 0, in both.
    """
    assert initialization in INITIALIZATIONS, initialization
    if getattr(network, "starts_itself", False):
        return
    for part in network.children():
        init_weights(part, initialization)
    he = initialization == "he"
    if isinstance(network, nn.Linear):
        nn.init.trunc_normal_(network.weight, std=0.02)
    elif he and isinstance(network, PredictionConv):
        nn.init.normal_(network.weight, std=0.01)
    elif he and isinstance(network, nn.Conv2d):
        nn.init.kaiming_normal_(network.weight, nonlinearity="relu")
    if (isinstance(network, nn.Linear) or (he and isinstance(network, nn.Conv2d))) and network.bias is not None:
        nn.init.zeros_(network.bias)


def set_momentum(module: nn.Module, momentum: float) -> None:
    """Give every batch norm this weight of a batch in its running statistics: after n batches, (1 - momentum)^n is
    left of the start. One that stands for several calls moves as far as they would."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1 - (1 - momentum) ** getattr(layer, "calls", 1)


def stand_for_calls(module: nn.Module, calls: int, momentum: float = 0.1) -> None:
    """Let one call in a step move the running statistics as far as so many calls on the same maps would."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.calls = calls  # type: ignore[assignment]  # nn.Module's stub knows tensors and modules only
    set_momentum(module, momentum)
