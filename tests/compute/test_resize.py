"""Bilinear resizing as matrix products is torch's own, and so is its gradient."""

import pytest
import torch
from torch.nn import functional as F

from pipeline.compute.resize import resize, resize_by_matmul


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 8, 40])
@pytest.mark.parametrize("size", [(24, 32), (33, 49), (5, 9), (6, 8)], ids=str)
def test_products_are_bilinear(size, channels, memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 6, 8, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    outer = torch.randn(2, channels, *size, dtype=torch.float64)
    found, expected = resize_by_matmul(x, size), F.interpolate(x, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    (slope,), (expected_slope,) = (torch.autograd.grad(each, x, outer) for each in (found, expected))
    torch.testing.assert_close(slope, expected_slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", [resize, resize_by_matmul])
def test_corners_are_not_aligned(form):
    """By hand: four pixels over the extent of two have their centres at -1/4, 1/4, 3/4 and 5/4; beyond is constant."""
    row = torch.tensor([0.0, 0.25, 0.75, 1.0])
    x = torch.tensor([[0.0, 1.0], [8.0, 9.0]])[None, None]
    torch.testing.assert_close(form(x, (2, 4))[0, 0], torch.stack([row, 8 + row]))
    torch.testing.assert_close(form(x, (4, 2))[0, 0], torch.stack([8 * row, 8 * row + 1], 1))
    assert resize(x, (2, 2)) is x


def test_what_validation_made_serves_training():
    """A training that was killed in a validation begins with it, in inference mode."""
    x = torch.randn(2, 3, 7, 9)  # of a size that no other test has
    with torch.inference_mode():
        resize_by_matmul(x, (11, 13))
    resize_by_matmul(x.requires_grad_(), (11, 13)).sum().backward()


def test_autocast_leaves_it_alone():
    with torch.autocast("cpu", torch.bfloat16):
        assert resize_by_matmul(torch.randn(2, 3, 4, 4), (8, 8)).dtype == torch.float32
        assert resize_by_matmul(torch.randn(2, 8, 4, 4).bfloat16(), (8, 8)).dtype == torch.bfloat16
