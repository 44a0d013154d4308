"""Brightness, contrast and saturation of batches, against torchvision on one image at a time."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import functional as reference

from pipeline.train.photometric import Photometry, adjust

FACTORS = [0.0, 0.6, 1.0, 1.4, 2.0]
ADJUSTMENTS = ("brightness", "contrast", "saturation")


def light(brightness=1.0, contrast=1.0, saturation=1.0, count=2) -> Photometry:
    return Photometry(*(torch.as_tensor(f).float().expand(count) for f in (brightness, contrast, saturation)))


def smooth_images(count: int) -> torch.Tensor:
    """Like photographs: colours that vary slowly, some of them saturated."""
    noise = torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(noise, (37, 51), mode="bicubic").mul(300).sub(20).clamp(0, 255)


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_one_adjustment_agrees_with_torchvision(name):
    """Per sample: on float images to rounding; on uint8 to what torchvision truncates, the grey and the result."""
    image = smooth_images(len(FACTORS)).round()
    adjusted = adjust(image.byte(), light(**{name: FACTORS}, count=len(FACTORS)))
    assert adjusted.dtype == torch.float32
    its = getattr(reference, f"adjust_{name}")
    for ours, theirs, factor in zip(adjusted, image, FACTORS, strict=True):
        torch.testing.assert_close(ours, its(theirs / 255, factor) * 255, atol=1e-3, rtol=0)
        truncated = its(theirs.byte(), factor).float()
        assert (ours - truncated).abs().max() <= 1 + abs(1 - factor) + 1e-3
        assert torch.equal(ours, theirs) == (factor == 1)


def test_all_adjustments_agree_with_torchvision_in_their_order():
    image = smooth_images(3)
    factors = {"brightness": [1.3, 0.7, 1.0], "contrast": [0.6, 1.4, 1.0], "saturation": [1.4, 0.5, 1.0]}
    adjusted = adjust(image, light(**factors, count=3))
    for i in range(3):
        expected = image[i] / 255
        for name in ADJUSTMENTS:
            expected = getattr(reference, f"adjust_{name}")(expected, factors[name][i])
        torch.testing.assert_close(adjusted[i], expected * 255, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_the_given_image_is_not_changed_and_comes_back_where_nothing_happens(kind):
    image = smooth_images(1).to(getattr(torch, kind))
    before = image.clone()
    adjust(image, light(brightness=1.5, contrast=0.5, saturation=0.1, count=1))
    assert torch.equal(image, before)
    assert adjust(image, light(count=1)) is image
