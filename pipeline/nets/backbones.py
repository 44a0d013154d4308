"""Backbones: any timm feature extractor with maps at strides 4, 8, 16 and 32."""

import difflib
import math

import timm
from torch import Tensor, nn

from pipeline.nets.blocks import resize
from pipeline.nets.weights import load_pretrained

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """Image (B, 3, H, W) -> four maps (B, C_k, ceil(H / stride), ceil(W / stride)), fine to coarse.

    An image whose sides are no multiples of 32 is first enlarged (bilinear) to the next ones: HRNet accepts
    nothing else, and this way every map covers exactly the extent of the image, with no border to crop.

    name: a timm model. pretrained: False, True (timm's hub) or the path of a weights file; see `weights.py`.
    Raises ValueError for an unknown name or one without the four strides, TrainingError for missing weights.
    """

    def __init__(self, name: str, pretrained: bool | str = False):
        super().__init__()
        self.net = _create(name)
        self.channels: list[int] = self.net.feature_info.channels()
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self.load_report = load_pretrained(self.net, name, pretrained) if pretrained else None

    def forward(self, image: Tensor) -> list[Tensor]:
        size = [math.ceil(side / STRIDES[-1]) * STRIDES[-1] for side in image.shape[-2:]]
        maps = self.net(resize(image, size))
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else maps


def _create(name: str) -> nn.Module:
    """The timm feature extractor with exactly the maps of STRIDES."""
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        raise ValueError(f"Unknown backbone {name!r}.{hint} Allowed: what timm.list_models() lists.")
    # HRNet's default features are those of its classification head; "" asks for its four branches themselves.
    options = {"features_only": True} | ({"feature_location": ""} if name.startswith("hrnet") else {})
    try:
        info = timm.create_model(name, **options).feature_info
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:  # what timm raises, by model
        raise ValueError(f"Backbone {name!r} cannot give intermediate features in timm: {error}") from error
    deepest = dict(zip(info.reduction(), info.out_indices, strict=True))  # the last map of each stride wins
    if not set(STRIDES) <= set(deepest):
        raise ValueError(
            f"Backbone {name!r} has maps at strides {sorted(deepest)}; needed are {list(STRIDES)}. "
            "Choose a hierarchical one, for example hrnet_w18_small_v2, resnet18 or convnext_tiny."
        )
    return timm.create_model(name, **options, out_indices=tuple(deepest[stride] for stride in STRIDES))
