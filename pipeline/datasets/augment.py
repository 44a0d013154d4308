"""Random geometry for whole batches, on the device that trains.

Flip, zoom and rotation of a sample are one affine map about the image centre. The image is read bilinearly; labels are
read at the nearest pixel through one shared index, so that their types and holes stay exact. Pixels that come from
outside the image carry no label. What geometry does to a label's *value* (a flipped normal, a zoomed depth) is the
task's own business: it is handed in as a `ValueGeometry` for each task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.datasets.loading import Batch


@dataclass(frozen=True)
class ValueGeometry:
    """What geometry does to the values of one task's label, (B, C, H, W) -> (B, C, H, W), once pixels have moved."""

    on_flip: Callable[[Tensor], Tensor]
    on_rotate: Callable[[Tensor, Tensor], Tensor]  # angle (B,) in radians, counter-clockwise as seen
    on_zoom: Callable[[Tensor, Tensor], Tensor]  # factor (B,), above 1 enlarges


@dataclass(frozen=True)
class Geometry:
    """One batch's draw: flip (B,) bool, zoom (B,), angle (B,) in radians counter-clockwise as seen."""

    flip: Tensor
    zoom: Tensor
    angle: Tensor

    @property
    def is_affine(self) -> bool:
        """Whether anything but a flip happens."""
        return bool((self.zoom != 1).any() or (self.angle != 0).any())


@dataclass(frozen=True)
class Augmenter:
    """Draws and applies geometry.

    flip: probability. scale: zoom factors to choose from (`scale_mode` choice) or the ends of a range (range).
    rotation: the angle is uniform in +- this many degrees.
    """

    flip: float
    scale: tuple[float, ...]
    scale_mode: str
    rotation: float
    values: dict[str, ValueGeometry]

    def draw(self, count: int, rng: np.random.Generator) -> Geometry:
        """Draw for `count` samples; always the same number of random numbers, so that streams stay aligned."""
        flip = rng.random(count) < self.flip
        if self.scale_mode == "range":
            zoom = rng.uniform(min(self.scale), max(self.scale), count)
        else:
            zoom = rng.choice(np.asarray(self.scale, dtype=np.float64), count)
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation, count))
        return Geometry(
            torch.from_numpy(flip),
            torch.from_numpy(zoom.astype(np.float32)),
            torch.from_numpy(angle.astype(np.float32)),
        )

    def __call__(self, batch: Batch, geometry: Geometry) -> Batch:
        """Apply `geometry` to a batch whose image and labels have the same size, on whichever device they lie."""
        image, value, valid = batch.image, batch.value, batch.valid
        device = image.device
        affine, flips = (
            geometry.is_affine,
            bool(geometry.flip.any()),
        )  # asked on the CPU, where the draw was made
        geometry = Geometry(geometry.flip.to(device), geometry.zoom.to(device), geometry.angle.to(device))
        if affine:
            image, value, valid = _warp(image, value, valid, geometry)
        elif flips:
            image, value, valid = (
                _flip(image, geometry.flip),
                {task: _flip(each, geometry.flip) for task, each in value.items()},
                {task: _flip(each, geometry.flip) for task, each in valid.items()},
            )
        value = {task: self._transform(task, each, geometry) for task, each in value.items()}
        return Batch(image, value, valid)

    def _transform(self, task: str, value: Tensor, geometry: Geometry) -> Tensor:
        rules = self.values[task]
        value = torch.where(geometry.flip.view(-1, 1, 1, 1), rules.on_flip(value), value)
        value = rules.on_rotate(value, geometry.angle)
        return rules.on_zoom(value, geometry.zoom)


def _flip(tensor: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip.view(-1, 1, 1, 1), tensor.flip(-1), tensor)


def source_coordinates(geometry: Geometry, height: int, width: int) -> Tensor:
    """(B, H, W, 2): the source pixel (x, y) that each output pixel shows.

    The sample is flipped first, then rotated and zoomed about the centre; this is that map's inverse.
    """
    device = geometry.zoom.device
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
    cos, sin = (torch.cos(geometry.angle), torch.sin(geometry.angle))
    cos, sin = ((each / geometry.zoom).view(-1, 1, 1) for each in (cos, sin))
    # Image rows grow downwards: content turned counter-clockwise as seen comes from a point turned clockwise.
    source_x = cos * x.view(1, 1, -1) - sin * y.view(1, -1, 1)
    source_y = sin * x.view(1, 1, -1) + cos * y.view(1, -1, 1)
    source_x = torch.where(geometry.flip.view(-1, 1, 1), -source_x, source_x)
    return torch.stack([source_x + (width - 1) / 2, source_y + (height - 1) / 2], dim=-1)


def _warp(
    image: Tensor, value: dict[str, Tensor], valid: dict[str, Tensor], geometry: Geometry
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    batch, _, height, width = image.shape
    source = source_coordinates(geometry, height, width)
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=source.device)
    image = F.grid_sample(image.float(), source * scale - 1, mode="bilinear", align_corners=True)

    nearest = source.round().long()
    x, y = nearest[..., 0], nearest[..., 1]
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height)).view(batch, 1, height, width)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).view(batch, 1, -1)

    def read(tensor: Tensor) -> Tensor:
        return tensor.flatten(2).gather(2, index.expand(-1, tensor.shape[1], -1)).view_as(tensor)

    return (
        image,
        {task: read(each) for task, each in value.items()},
        {task: read(each) & inside for task, each in valid.items()},
    )
