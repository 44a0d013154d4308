"""HRNets with hrnet_w18_small's four stages and their exchanges, a fraction of its blocks and of its width.

For what must hold whatever the width. Import this module to make the names known to timm.
"""

from __future__ import annotations

from typing import Any

from timm.models import hrnet, register_model
from torch import nn

WIDTHS = (8, 16, 32, 64)
SIXES = (6, 12, 24, 48)
WIDE_ENDED = (8, 16, 32, 264)


def _stage(*widths: int, block: str = "BASIC") -> dict[str, Any]:
    return {
        "num_modules": 1,
        "num_branches": len(widths),
        "block_type": block,
        "num_blocks": (1,) * len(widths),
        "num_channels": widths,
        "fuse_method": "SUM",
    }


def _config(widths: tuple[int, ...]) -> dict[str, Any]:
    stages = {f"stage{count}": _stage(*widths[:count]) for count in (2, 3, 4)}
    return {"stem_width": 8, "stage1": _stage(4, block="BOTTLENECK"), **stages}


hrnet.cfg_cls["hrnet_narrow"] = _config(WIDTHS)
hrnet.cfg_cls["hrnet_sixes"] = _config(SIXES)
hrnet.cfg_cls["hrnet_wide_ended"] = _config(WIDE_ENDED)


@register_model
def hrnet_narrow(pretrained: bool = False, **options: Any) -> nn.Module:
    return hrnet._create_hrnet("hrnet_w18_small", pretrained, cfg_variant="hrnet_narrow", **options)


@register_model
def hrnet_sixes(pretrained: bool = False, **options: Any) -> nn.Module:
    """Six heads divide its widths, as those of HRNet-18."""
    return hrnet._create_hrnet("hrnet_w18_small", pretrained, cfg_variant="hrnet_sixes", **options)


@register_model
def hrnet_wide_ended(pretrained: bool = False, **options: Any) -> nn.Module:
    """Its coarsest scale is wider than any bound that a network sets to a scale."""
    return hrnet._create_hrnet("hrnet_w18_small", pretrained, cfg_variant="hrnet_wide_ended", **options)


NARROW, WIDE = hrnet_narrow.__name__, hrnet_wide_ended.__name__
