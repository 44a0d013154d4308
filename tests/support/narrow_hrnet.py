"""HRNet with hrnet_w18_small's four stages and their exchanges, a fraction of its blocks and half of its width.

For what must hold whatever the width. Import this module to make the name known to timm.
"""

from __future__ import annotations

from typing import Any

from timm.models import hrnet, register_model
from torch import nn

WIDTHS = (8, 16, 32, 64)


def _stage(*widths: int, block: str = "BASIC") -> dict[str, Any]:
    return {
        "num_modules": 1,
        "num_branches": len(widths),
        "block_type": block,
        "num_blocks": (1,) * len(widths),
        "num_channels": widths,
        "fuse_method": "SUM",
    }


hrnet.cfg_cls["hrnet_narrow"] = {
    "stem_width": 8,
    "stage1": _stage(4, block="BOTTLENECK"),
    **{f"stage{count}": _stage(*WIDTHS[:count]) for count in (2, 3, 4)},
}


@register_model
def hrnet_narrow(pretrained: bool = False, **options: Any) -> nn.Module:
    return hrnet._create_hrnet("hrnet_w18_small", pretrained, cfg_variant="hrnet_narrow", **options)


NARROW = hrnet_narrow.__name__
