"""The blocks of InvPT's decoder (Ye & Xu, ECCV 2022, arXiv:2203.07997).

Shapes: B batch, T tasks, C channels, H, W; T' <= T target tasks, whose results are wanted. Features of all tasks are
(B, T, H, W, C), since most layers work on single tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from pipeline.compute.resize import resize

HEADS = 2
MLP_RATIO = 4


def to_maps(x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B * T, C, H, W), channels last in memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def to_tokens(maps: Tensor, tasks: int) -> Tensor:
    """The inverse of `to_maps`."""
    return maps.permute(0, 2, 3, 1).unflatten(0, (-1, tasks))


class Upsample(nn.Sequential):
    """The reshape-and-up of one task: bilinear resize, two 3x3 conv + BN + ReLU (dilation 2, as released).

    (B, in, h, w), (H, W) -> (B, out, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int):
        layers = []
        for width in (in_channels, out_channels):
            layers += [
                nn.Conv2d(width, out_channels, 3, padding=2, dilation=2, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)
        self.out_channels = out_channels

    def forward(  # type: ignore[override]  # the size is a second argument, which only `Stage` passes
        self, x: Tensor, size: Sequence[int]
    ) -> Tensor:
        return super().forward(resize(x, size))


class HalvedQuery(nn.Module):
    """Depthwise 3x3 convolution of stride 2 and BN: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)).

    A map of at most 2x2 pixels keeps its size: batch norm cannot train on a single pixel of a single image.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        stride = 2 if max(x.shape[-2:]) > 2 else 1
        return self.norm(F.conv2d(x, self.conv.weight, stride=stride, padding=1, groups=x.shape[1]))


class JointAttention(nn.Module):
    """Softmax attention over the tokens of all tasks at once; its scores mix with those of the stage before.

    x (B, T, H, W, C), message or None -> (B, T', h, w, C), message.

    Queries are taken at half the resolution. Keys and values are averaged over pool x pool pixels: pool doubles from
    stage to stage like the map, so all stages have the same N keys. That makes the message, the scores before the
    softmax (B, heads, T', h, w, N), fit the next stage's once it is enlarged over its queries: the two are
    concatenated and a 1x1 convolution mixes them down to `heads` again.

    As released, scores are divided by the root of C, not of C / heads. A bias of the keys or of the mix would shift all
    scores of a query alike, which the softmax undoes: there is none.

    receives: whether a message comes in. targets: T', the first of the T tasks.
    """

    def __init__(self, channels: int, tasks: int, targets: int, pool: int, receives: bool):
        super().__init__()
        self.pool = pool
        self.halve = nn.ModuleList(HalvedQuery(channels) for _ in range(targets))
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels)
        self.mix = nn.Conv2d(2 * HEADS, HEADS, 1, bias=False) if receives else None
        self.project = nn.Linear(channels, channels)
        self.tasks, self.targets, self.out_channels = tasks, targets, channels

    def forward(self, x: Tensor, message: Tensor | None) -> tuple[Tensor, Tensor]:
        query = torch.stack([halve(to_maps(x[:, i : i + 1])) for i, halve in enumerate(self.halve)], 1)
        query = query.permute(0, 1, 3, 4, 2)  # (B, T', h, w, C)
        pooled = F.avg_pool2d(to_maps(x), self.pool, ceil_mode=True)
        pooled = to_tokens(pooled, self.tasks).flatten(1, 3)  # (B, N, C)

        key, value = split_heads(self.key(pooled)), split_heads(self.value(pooled))
        scores = split_heads(self.query(query.flatten(1, 3))) @ key.transpose(2, 3) * x.shape[-1] ** -0.5
        scores = scores.unflatten(2, query.shape[1:4])
        if self.mix is not None:
            assert message is not None
            scores = self._receive(scores, message)
        wide = torch.promote_types(scores.dtype, torch.float32)  # on a CPU autocast leaves a softmax in bfloat16
        weights = scores.flatten(2, 4).softmax(-1, dtype=wide)
        out = (weights @ value).transpose(1, 2).flatten(2)
        return self.project(out).unflatten(1, query.shape[1:4]), scores

    def _receive(self, scores: Tensor, message: Tensor) -> Tensor:
        assert self.mix is not None
        enlarged = enlarge_scores(message[:, :, : self.targets], scores.shape[3:5])
        both = torch.cat([scores, enlarged], 1)  # (B, 2 * heads, T', h, w, N)
        return self.mix(both.flatten(3).flatten(2, 3).unsqueeze(-1)).view(scores.shape)


def split_heads(tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return tokens.unflatten(2, (HEADS, -1)).transpose(1, 2)


def enlarge_scores(scores: Tensor, size: Sequence[int]) -> Tensor:
    """(B, heads, T', h, w, N) -> (B, heads, T', *size, N): bilinear over the queries, each key by itself."""
    maps = scores.flatten(0, 2).permute(0, 3, 1, 2)
    return resize(maps, size).permute(0, 2, 3, 1).unflatten(0, scores.shape[:3])


class DecoderBlock(nn.Module):
    """Pre-norm transformer block: joint attention, upsampled to the map again, and an MLP, both residual.

    (B, T, H, W, C), message or None -> (B, T', H, W, C), message; see `JointAttention`.
    """

    def __init__(self, channels: int, tasks: int, targets: int, pool: int, receives: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = JointAttention(channels, tasks, targets, pool, receives)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, MLP_RATIO * channels)
        self.targets, self.out_channels = targets, channels

    def forward(self, x: Tensor, message: Tensor | None) -> tuple[Tensor, Tensor]:
        gathered, message = self.attention(self.norm1(x), message)
        gathered = to_tokens(resize(to_maps(gathered), x.shape[2:4]), self.targets)
        x = x[:, : self.targets] + gathered
        return x + self.mlp(self.norm2(x)), message
