"""A ResNet with resnet18's blocks, two a stage, at an eighth of its width.

For what must hold whatever the width. Import this module to make its name known to timm.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model, resnet
from torch import nn


@register_model
def narrow_resnet(pretrained: bool = False, **options: Any) -> nn.Module:
    blocks = {"block": resnet.BasicBlock, "layers": (2, 2, 2, 2), "channels": (8, 16, 32, 64), "stem_width": 8}
    return resnet._create_resnet("resnet18", pretrained, **blocks, **options)


NARROW_RESNET = narrow_resnet.__name__
