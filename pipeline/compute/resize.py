"""Bilinear resizing of maps, in the form that the device is fast at."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_WIDE = 8  # channels from which those of a pixel make a good row of a matrix


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of (B, C, h, w) to (B, C, *size); corners not aligned; no-op if it fits already."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.device.type == "cuda":
        return resize_by_matmul(x, size)
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def resize_by_matmul(x: Tensor, size: Sequence[int]) -> Tensor:
    """The same as a matrix product along each side.

    For GPUs: torch's own kernel for channels-last maps writes at a tenth of the memory's speed there (measured on an
    H200), and its backward pass adds up in no fixed order. Where TF32 is allowed, the products have its 10 bits of
    mantissa; in half precision the result is rounded once more, between the two.
    """
    (batch, channels, height, width), (new_height, new_width) = x.shape, size
    matrix = interpolation.__wrapped__ if torch.compiler.is_compiling() else interpolation  # graphs keep their own
    rows = matrix(height, new_height, x.dtype, x.device)
    columns = matrix(width, new_width, x.dtype, x.device)
    with torch.autocast(x.device.type, enabled=False):
        if channels >= _WIDE and x.is_contiguous(memory_format=torch.channels_last):
            x = rows @ x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
            return (columns @ x.view(batch, new_height, width, channels)).permute(0, 3, 1, 2)
        return rows @ (x.contiguous() @ columns.T)


@functools.cache
def interpolation(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(target, source), the matrix by which bilinear resizing acts on one side. It is kept, and not to be changed."""
    with torch.inference_mode(False):  # a training may be the next to use it
        unit = torch.eye(source, dtype=torch.promote_types(dtype, torch.float32), device=device)[None, None]
        return F.interpolate(unit, (target, source), mode="bilinear", align_corners=False)[0, 0].to(dtype)
