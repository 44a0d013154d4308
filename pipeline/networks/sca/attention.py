"""The two kinds of attention: linear cross-attention between maps and softmax attention in windows.

Shapes: B batch, C channels, D key channels, H, W; N = H * W pixels.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from pipeline.networks.blocks import ConvNorm

PADDINGS = ("attended", "masked")


def linear_attention(query: Tensor, key: Tensor, value: Tensor, floor: float = 1e-6) -> Tensor:
    """Attention whose weights are q . k / sum(q . k), in time linear in the number of pixels.

    With positive queries and keys no softmax is needed, so V (K^T q) may be bracketed as (V K^T) q and no
    (N x N) map ever exists (Shen et al., arXiv:1812.01243, in the form of ATRC, arXiv:2104.13874).

    query (B, D, H, W), key (B, D, h, w) positive, value (B, C, h, w) -> (B, C, H, W). Sizes may differ.
    Keys are averaged rather than summed over pixels, which cancels in the ratio and keeps half precision in
    range. The normaliser is computed in float32 or wider and clamped from below to `floor`.
    """
    height, width = query.shape[-2:]
    tokens = query.flatten(2).transpose(1, 2)  # (B, N, D); in channels-last memory this is a view
    key = key.flatten(2) / key.shape[-2:].numel()
    context = key @ value.flatten(2).transpose(1, 2)  # (B, D, C)
    with torch.autocast(query.device.type, enabled=False):
        wide = torch.promote_types(tokens.dtype, torch.float32)
        total = tokens.to(wide) @ key.to(wide).sum(2, keepdim=True)  # (B, N, 1)
    out = (tokens @ context) / total.clamp(min=floor)
    # `reshape` states the strides anew: of a batch of one the quotient's make `cat` fall out of channels-last memory.
    return out.to(value.dtype).reshape(-1, height, width, out.shape[-1]).permute(0, 3, 1, 2)


class PositiveProjection(nn.Sequential):
    """Query or key of a cross-attention: two 1x1 conv + BN with a ReLU between, then softplus: positive."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            ConvNorm(in_channels, out_channels),
            ConvNorm(out_channels, out_channels, act=False),
            nn.Softplus(),
        )
        self.out_channels = out_channels


class CrossAttention(nn.Module):
    """CAM: the target asks, the source answers. One head, no output projection. It starts by Xavier's rule.

    target (B, C, H, W), source (B, C, h, w) -> (B, C, H, W). The parts are public, so that a query that meets
    several sources is computed once: `attend(query(target), source)`.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query = PositiveProjection(channels, channels)
        self.key = PositiveProjection(channels, channels)
        self.value = ConvNorm(channels, channels)
        self.out_channels = channels
        xavier(self)

    def attend(self, query: Tensor, source: Tensor) -> Tensor:
        """query (B, C, H, W) as computed by `self.query`, source (B, C, h, w) -> (B, C, H, W)."""
        return linear_attention(query, self.key(source), self.value(source))

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        return self.attend(self.query(target), source)


def xavier(module: nn.Module) -> None:
    """Start the convolutions as the released attention does: Xavier's normal (Glorot and Bengio, AISTATS 2010)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight)


def window_mask(
    size: tuple[int, int], padded: tuple[int, int], window: int, shift: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Additive mask (windows, window**2, window**2) that keeps pixels from attending where they must not.

    Two kinds of pairs share a window and must not meet: map and padding, and, after the cyclic shift, pixels
    from opposite borders. None where neither occurs.
    """
    if size == padded and not any(shift):
        return None
    region = torch.zeros(padded, device=device)
    region[size[0] :] = region[:, size[1] :] = 4  # padding attends to padding only: no row is wholly masked
    region = region.roll((-shift[0], -shift[1]), (0, 1))
    if shift[0]:
        region[-shift[0] :] += 1
    if shift[1]:
        region[:, -shift[1] :] += 2
    region = partition(region[None, :, :, None], window).squeeze(2)
    return (region[:, :, None] != region[:, None, :]) * -100.0


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C), H and W multiples of `window` -> (B * windows, window**2, C)."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, window, columns, window, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def merge(windows: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `partition`: (B * windows, window**2, C) -> (B, *size, C)."""
    rows, columns = size[0] // window, size[1] // window
    x = windows.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class WindowBlock(nn.Module):
    """Pre-norm residual window attention of Swin (Liu et al., ICCV 2021) without the MLP: any map size.

    (B, H, W, C) -> (B, H, W, C).
    padding: a map that is no multiple of the window gets zeros at the right and at the bottom, after the norm.
        "attended": pixels attend to them too, as in the released code; "masked": they don't.
    shift_small: whether a side that fits in one window is shifted all the same, as in the released code: that window is
        then cut in two. Without, there is nothing to shift to.
    drop_path: probability that a sample's attention is left out in a training step (stochastic depth).
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int = 7,
        shift: int = 0,
        padding: str = "attended",
        shift_small: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        assert padding in PADDINGS, padding
        # Rounding up keeps at least `channels` attention channels where they don't divide by the heads.
        head_dim = math.ceil(channels / heads)
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, head_dim, window)
        self.window, self.shift = window, shift
        self.padding, self.shift_small = padding, shift_small
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self._attend(self.norm(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = size = (x.shape[1], x.shape[2])
        padded = (self._padded(height), self._padded(width))
        shift = (self._shift(height), self._shift(width))
        if padded != size:
            x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        mask = window_mask(padded if self.padding == "attended" else size, padded, self.window, shift, x.device)
        x = merge(self.attention(partition(x, self.window), mask), self.window, padded)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, :height, :width]

    def _padded(self, side: int) -> int:
        return math.ceil(side / self.window) * self.window

    def _shift(self, side: int) -> int:
        return self.shift if self.shift_small or side > self.window else 0


class WindowSelfAttention(nn.Module):
    """A 1x1 patch embedding and `depth` window blocks, every second one shifted, between layer norms.

    (B, C, H, W) -> (B, C, H, W). Depth 2 with 6 heads is ATT, depth 1 with 4 heads the mask of FPMA.
    padding, shift_small: see `WindowBlock`. drop_path: of the last block; the first has none, those between rise to it.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        window: int = 7,
        padding: str = "attended",
        shift_small: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.embed = nn.Conv2d(channels, channels, 1)
        self.norm_in = nn.LayerNorm(channels)
        shifts = [window // 2 * (index % 2) for index in range(depth)]
        drops = [drop_path * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.Sequential(
            *(
                WindowBlock(channels, heads, window, shift, padding, shift_small, drop)
                for shift, drop in zip(shifts, drops, strict=True)
            )
        )
        self.norm_out = nn.LayerNorm(channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_in(self.embed(x).permute(0, 2, 3, 1))
        return self.norm_out(self.blocks(x)).permute(0, 3, 1, 2)
