"""A plain ViT of the kind of timm's `vit_large_patch16_384`, a fraction of its size. Import this to make it known."""

from __future__ import annotations

from typing import Any

from timm.models import register_model, vision_transformer
from torch import nn

WIDTH, DEPTH, HEADS = 24, 6, 3


@register_model
def vit_narrow(pretrained: bool = False, **options: Any) -> nn.Module:
    """Six blocks: the quarters are after 1, 3, 4 and 6."""
    size = {"patch_size": 16, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": 64}
    return vision_transformer._create_vision_transformer("vit_tiny_patch16_224", pretrained, **(size | options))


NARROW_VIT = vit_narrow.__name__
