"""InvPT as its authors released it, on a plain ViT: their names, their layout, every layer a step of its own.

Written from what was read in Multi-Task-Transformer (98233d9 for NYUD, 7e0f149 for PASCAL-Context), not from this
project's network. It is the truth for `pipeline.adopt`, so it has what computes nothing there, too: `norm_mt`,
`redu_chan.0`, `scale_embed.2` and the first stage's `fuse_attn`.

Sizes there: ViT-L (1024 channels, 24 blocks of 16 heads, maps after 6, 12, 18 and 24), width 512, 64 more in the
decoder. As there, an image's sides divide by 64. Shapes: B batch, C channels, h, w of a map; N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 2


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """The inverse of `tokens`."""
    return x.transpose(1, 2).unflatten(2, tuple(size))


def split_attention(query: Tensor, key: Tensor, heads: int, scale: float) -> Tensor:
    """Scores (B, heads, N, M) of queries (B, N, C) with keys (B, M, C), a head at a time."""
    pairs = zip(query.chunk(heads, 2), key.chunk(heads, 2), strict=True)
    return torch.stack([q @ k.transpose(1, 2) * scale for q, k in pairs], 1)


def gather(scores: Tensor, value: Tensor) -> Tensor:
    """Softmax over the keys, and the values (B, M, C) that they weigh: (B, N, C)."""
    weights = scores.exp() / scores.exp().sum(3, keepdim=True)
    return torch.cat([weights[:, i] @ v for i, v in enumerate(value.chunk(scores.shape[1], 2))], 2)


class Layers(nn.Module):
    """Modules by name, and nothing that is computed of them."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def mlp(width: int) -> Layers:
    return Layers(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))


def run_mlp(layers: nn.Module, x: Tensor) -> Tensor:
    return layers.fc2(F.gelu(layers.fc1(x)))


class ViT(nn.Module):
    """grid: rows and columns of patches of 16 pixels. taken: after which blocks a map is taken."""

    def __init__(self, grid: Sequence[int], width: int, depth: int, heads: int, taken: Sequence[int]):
        super().__init__()
        self.grid, self.heads, self.taken = tuple(grid), heads, taken
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], width))
        self.patch_embed = Layers(proj=nn.Conv2d(3, width, 16, stride=16))
        self.blocks = nn.ModuleList(self._block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @staticmethod
    def _block(width: int) -> Layers:
        attention = Layers(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        norms = {f"norm{i}": nn.LayerNorm(width, eps=1e-6) for i in (1, 2)}
        return Layers(norm1=norms["norm1"], attn=attention, norm2=norms["norm2"], mlp=mlp(width))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = tokens(self.patch_embed.proj(image))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        found = []
        for count, block in enumerate(self.blocks, 1):
            query, key, value = block.attn.qkv(block.norm1(x)).chunk(3, 2)
            scores = split_attention(query, key, self.heads, (query.shape[2] / self.heads) ** -0.5)
            x = x + block.attn.proj(gather(scores, value))
            x = x + run_mlp(block.mlp, block.norm2(x))
            if count in self.taken:
                found.append(x[:, 1:])
        return [as_map(each, self.grid) for each in (*found, self.norm(x)[:, 1:])]


class Stage(nn.Module):
    """Stage k of three, of T tasks. In the first nothing is enlarged."""

    def __init__(self, k: int, tasks: int, given: int, width: int):
        super().__init__()
        self.pool = 2 ** (k + 1)
        if k > 0:
            self.patch_embed = nn.ModuleList(Layers(proj=self._enlarge(given, width)) for _ in range(tasks))
        linear = {f"proj_{part}": nn.Linear(width, width) for part in "qkv"}
        halved = nn.ModuleList(
            Layers(conv=nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False), bn=nn.BatchNorm2d(width))
            for _ in range(tasks)
        )
        rest = {"proj": nn.Linear(width, width), "fuse_attn": nn.Conv2d(2 * HEADS, HEADS, 1)}
        block = Layers(norm1=nn.LayerNorm(width), norm2=nn.LayerNorm(width), mlp=mlp(width))
        block.attn = Layers(conv_proj_q=halved, **linear, **rest)
        self.blocks = nn.ModuleList([block])

    @staticmethod
    def _enlarge(given: int, width: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
        for channels in (given, width):
            conv = nn.Conv2d(channels, width, 3, padding=2, dilation=2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, maps: list[Tensor], message: Tensor | None, extra: Tensor | None) -> tuple[list[Tensor], Tensor]:
        if extra is not None:
            maps = [embed.proj(x) + extra for embed, x in zip(self.patch_embed, maps, strict=True)]
        (block,) = self.blocks
        size = maps[0].shape[2:]
        half = [side // 2 for side in size]
        normed = [as_map(block.norm1(tokens(x)), size) for x in maps]
        found, message = self._attend(block.attn, normed, message, half)
        out = []
        for x, attended in zip(maps, found.chunk(len(maps), 1), strict=True):
            y = tokens(x) + tokens(bilinear(as_map(attended, half), size))
            out.append(as_map(y + run_mlp(block.mlp, block.norm2(y)), size))
        return out, message

    def _attend(
        self, layers: nn.Module, maps: list[Tensor], message: Tensor | None, half: list[int]
    ) -> tuple[Tensor, Tensor]:
        halved = [each.bn(each.conv(x)) for each, x in zip(layers.conv_proj_q, maps, strict=True)]
        pooled = torch.cat([tokens(F.avg_pool2d(x, self.pool, ceil_mode=True)) for x in maps], 1)
        query = layers.proj_q(torch.cat([tokens(x) for x in halved], 1))
        scores = split_attention(query, layers.proj_k(pooled), HEADS, query.shape[2] ** -0.5)
        if message is not None:
            coarse = [side // 2 for side in half]
            enlarged = []
            for rows in message.chunk(len(maps), 2):  # of a task: (B, heads, N, M), a map of queries for every key
                grids = rows.transpose(2, 3).flatten(0, 1).unflatten(2, coarse)
                grids = F.interpolate(grids, scale_factor=2, mode="bilinear", align_corners=False)
                enlarged.append(grids.flatten(2).transpose(1, 2).unflatten(0, (-1, HEADS)))
            scores = layers.fuse_attn(torch.cat([scores, torch.cat(enlarged, 2)], 1))
        return layers.proj(gather(scores, layers.proj_v(pooled))), scores


class ReleasedInvPT(nn.Module):
    """Image (B, 3, H, W) -> {task: prediction at the image's size}, {task: preliminary one at stride 32}.

    tasks: {task: channels} in the order of the configuration. more: channels that the decoder has beyond `width`.
    """

    def __init__(self, vit: ViT, tasks: Mapping[str, int], width: int, more: int):
        super().__init__()
        self.tasks, self.backbone = list(tasks), vit
        given, full, count = vit.cls_token.shape[2], width + more, len(tasks)
        widths = [full, full // 2, full // 4]

        def conv_block(a: int, b: int) -> Layers:
            return Layers(conv=nn.Conv2d(a, b, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(b))

        decoder = Layers()
        decoder.intermediate_head = nn.ModuleDict({t: nn.Conv2d(width, n, 1) for t, n in tasks.items()})
        decoder.invpt = Layers(
            norm_mts=nn.ModuleList(nn.LayerNorm(count * c) for c in widths),
            redu_chan=nn.ModuleList(nn.ModuleList(nn.Conv2d(c, full, 1) for _ in tasks) for c in widths),
            invpt_stages=nn.ModuleList(
                Stage(k, count, before, c) for k, (before, c) in enumerate(zip([full, *widths], widths, strict=False))
            ),
            norm_mt=nn.LayerNorm(count * widths[-1]),
            mt_proj=nn.ModuleDict(
                {t: nn.Sequential(nn.Conv2d(full, full, 3, padding=1), nn.BatchNorm2d(full)) for t in tasks}
            ),
            mix_proj=nn.ModuleDict({t: nn.Sequential(nn.Conv2d(width + n, full, 1)) for t, n in tasks.items()}),
        )
        decoder.preliminary_decoder = nn.ModuleDict(
            {t: nn.Sequential(conv_block(given, given), conv_block(given, width)) for t in tasks}
        )
        decoder.scale_embed = nn.ModuleList(
            [
                nn.ConvTranspose2d(given, widths[2], 3, stride=2, padding=1, output_padding=1),
                nn.Conv2d(given, widths[1], 3, padding=1),
                nn.Conv2d(given, widths[0], 3, padding=1),
            ]
        )
        self.multi_task_decoder = decoder
        self.heads = nn.ModuleDict({t: Layers(linear_pred=nn.Conv2d(full, n, 1)) for t, n in tasks.items()})

    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        decoder, invpt = self.multi_task_decoder, self.multi_task_decoder.invpt
        first, second, _, last = self.backbone(image)
        extras = [None, decoder.scale_embed[1](second), decoder.scale_embed[0](first)]
        coarsest = bilinear(last, [side // 2 for side in last.shape[2:]])
        size = [8 * side for side in coarsest.shape[2:]]

        maps, preliminary = [], {}
        for task in self.tasks:
            x = coarsest
            for block in decoder.preliminary_decoder[task]:
                x = block.bn1(block.conv(x)).relu()
            preliminary[task] = decoder.intermediate_head[task](x)
            maps.append(invpt.mix_proj[task](torch.cat([x, preliminary[task]], 1)))

        message = None
        parts: list[list[Tensor]] = []
        for k, (stage, extra) in enumerate(zip(invpt.invpt_stages, extras, strict=True)):
            maps, message = stage(maps, message, extra)
            normed = invpt.norm_mts[k](torch.cat([tokens(x) for x in maps], 2))
            own = [as_map(x, maps[0].shape[2:]) for x in normed.chunk(len(maps), 2)]
            if k > 0:
                own = [widen(x) for widen, x in zip(invpt.redu_chan[k], own, strict=True)]
            parts.append([bilinear(x, size) for x in own])

        final = {}
        for i, task in enumerate(self.tasks):
            features = invpt.mt_proj[task](parts[0][i] + parts[1][i] + parts[2][i]).relu()
            final[task] = bilinear(self.heads[task].linear_pred(features), image.shape[2:])
        return final, preliminary
