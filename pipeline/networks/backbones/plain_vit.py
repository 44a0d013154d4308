"""Plain vision transformers of timm as extractors: of the last map, or of the maps of four depths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

VIT_MAPS = ("pyramid", "depths")
_MAPS = 4


class PlainViT(Protocol):
    """What the extractors use of timm's plain ViTs, whose classes share no other base than nn.Module."""

    num_features: int
    blocks: nn.Sequential
    norm: nn.Module

    def prune_intermediate_layers(
        self, indices: int | list[int], prune_norm: bool = False, prune_head: bool = True
    ) -> Sequence[int]: ...

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int], *, norm: bool, output_fmt: str, intermediates_only: bool
    ) -> list[Tensor]: ...


class LastMap(nn.Module):
    """A plain ViT as an extractor of its last map, through its final norm: (B, 3, H, W) -> [(B, C, h, w)].

    timm's own extractor leaves that norm out, although the weights that follow were trained behind it.
    """

    def __init__(self, model: PlainViT):
        super().__init__()
        model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
        self.model = model
        self.out_channels = model.num_features

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(image, 1, norm=True, output_fmt="NCHW", intermediates_only=True)


class FourDepths(nn.Module):
    """A plain ViT as an extractor of the maps of four depths: (B, 3, H, W) -> four times (B, C, h, w).

    They are those after a quarter, a half, three quarters and all of its blocks: 6, 12, 18 and 24 of ViT-L, as the
    released code of InvPT takes them. The last alone goes through the final norm, as there.

    Raises ValueError for a model of fewer than four blocks.
    """

    def __init__(self, model: PlainViT):
        super().__init__()
        count = len(model.blocks)
        if count < _MAPS:
            raise ValueError(f"vit_maps: depths takes a ViT of at least {_MAPS} blocks, this one has {count}.")
        self.indices = [count * part // _MAPS - 1 for part in range(1, _MAPS + 1)]
        model.prune_intermediate_layers(self.indices, prune_norm=False, prune_head=True)
        self.model = model
        self.out_channels = model.num_features

    def forward(self, image: Tensor) -> list[Tensor]:
        *maps, last = self.model.forward_intermediates(
            image, self.indices, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return [*maps, self.model.norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)]


def nominal_stride(patch: int) -> int:
    """The power of two that a patch's side stands for: 16 for 14."""
    return 2 ** round(math.log2(patch))
