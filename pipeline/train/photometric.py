"""Random light for whole batches: brightness, contrast and saturation, a factor per sample.

Each is what torchvision's ColorJitter means by the word; torchvision itself takes one factor for a whole batch. The
order is fixed, brightness, contrast, saturation, where ColorJitter also shuffles the three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.loading.loader import to_device

_LUMA = (0.2989, 0.587, 0.114)  # grey of red, green and blue, ITU-R BT.601, in torchvision's rounding


@dataclass(frozen=True)
class Photometry:
    """The factors of one batch, (B,) each; 1 changes nothing, 0 leaves black, one grey, and shades of grey."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


def adjust(image: Tensor, photometry: Photometry) -> Tensor:
    """Change the light of images (B, 3, H, W) in 0..255, uint8 or float, on whichever device they lie.

    brightness multiplies; contrast blends with the mean grey of the image, saturation with the grey of each pixel; each
    result is clamped to 0..255. Returns float32, not rounded, or `image` itself where every factor is 1.
    """
    brightness, contrast, saturation = photometry.brightness, photometry.contrast, photometry.saturation
    if _acts(brightness):
        image = _blend(torch.zeros((), device=image.device), image, brightness)
    if _acts(contrast):
        image = _blend(_grey(image).mean(dim=(1, 2, 3), keepdim=True), image, contrast)
    if _acts(saturation):
        image = _blend(_grey(image), image, saturation)
    return image


def _acts(factor: Tensor) -> bool:
    return bool((factor != 1).any())  # asked on the CPU, where factors are drawn


def _grey(image: Tensor) -> Tensor:
    red, green, blue = image.float().split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(other: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """`image` where the factor is 1, `other` where it is 0, and beyond `image` above 1."""
    return torch.lerp(other, image.float(), to_device(factor, image.device).view(-1, 1, 1, 1)).clamp_(0, 255)
