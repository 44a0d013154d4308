"""Random changes of whole batches, on the device that trains: light first, then geometry.

Flip, zoom, rotation and crop of a sample are one affine map. The image is read bilinearly (a zoom below 1 does not
average, as in the published recipes); labels are read at the nearest pixel through one shared index, so that their
types and holes stay exact. What comes from outside the image is black, before normalisation, and carries no label.
What geometry does to a label's *value* (a flipped normal, a zoomed depth) is the task's own business: it is handed in
as a `ValueGeometry` for each task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.loading.loader import Batch, to_device
from pipeline.train.photometric import Photometry, adjust


@dataclass(frozen=True)
class ValueGeometry:
    """What geometry does to the values of one task's label, (B, C, H, W) -> (B, C, H, W), once pixels have moved."""

    on_flip: Callable[[Tensor], Tensor]
    on_rotate: Callable[[Tensor, Tensor], Tensor]  # angle (B,) in radians, counter-clockwise as seen
    on_zoom: Callable[[Tensor, Tensor], Tensor]  # factor (B,), above 1 enlarges


@dataclass(frozen=True)
class Geometry:
    """How one batch is moved: the sample is flipped, and a window of it enlarged and turned about its own centre.

    flip (B,) bool; zoom (B,), above 1 enlarges; angle (B,) in radians, counter-clockwise as seen. shift (B, 2): where
    the window of an enlargement lies, x to the right and y down, from -1 to 1: at +-1 its outermost pixels are the
    image's, 0 is the centre. Where nothing is enlarged the window is the image, and there is nowhere to shift it.
    """

    flip: Tensor
    zoom: Tensor
    angle: Tensor
    shift: Tensor

    @property
    def is_affine(self) -> bool:
        """Whether anything but a flip happens."""
        return bool((self.zoom != 1).any() or (self.angle != 0).any())

    def to(self, device: torch.device) -> Geometry:
        """The same on `device`."""
        return Geometry(*(to_device(each, device) for each in (self.flip, self.zoom, self.angle, self.shift)))


@dataclass(frozen=True)
class Draw:
    """Everything that was drawn for one batch, on the CPU."""

    geometry: Geometry
    photometry: Photometry

    def take(self, samples: np.ndarray) -> Draw:
        """What was drawn for these samples of the batch."""
        geometry, photometry = ([x[samples] for x in vars(of).values()] for of in (self.geometry, self.photometry))
        return Draw(Geometry(*geometry), Photometry(*photometry))


@dataclass(frozen=True)
class Augmenter:
    """Draws and applies random changes; the fields but `values` are those of params' `augmentation` section.

    flip: probability. scale: zoom factors to choose from (`scale_mode` choice) or the ends of a range (range).
    rotation: the angle is uniform in +- this many degrees. crop: an enlargement keeps its middle (center) or a window
    whose place is uniform over those that stay inside the image before it is turned (random). brightness, contrast,
    saturation: each factor is uniform in [1 - value, 1 + value]. values: the rules of the tasks in the batches.
    """

    flip: float
    scale: tuple[float, ...]
    scale_mode: str
    rotation: float
    values: dict[str, ValueGeometry]
    crop: str = "center"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draw:
        """Draw for `count` samples. Everything is drawn whether it is wanted or not, so that streams stay aligned.

        Crop and light have a generator of their own, made from the state of `rng` without advancing it: flip, zoom and
        rotation are what they were before the two existed, and a stored state of `rng` restores all.
        """
        flip = rng.random(count) < self.flip
        if self.scale_mode == "range":
            zoom = rng.uniform(min(self.scale), max(self.scale), count)
        else:
            zoom = rng.choice(np.asarray(self.scale, dtype=np.float64), count)
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation, count))
        # New seeds, not the jumped stream itself: that one would run through the next batch's numbers too.
        own = np.random.default_rng(cast(np.random.PCG64, rng.bit_generator).jumped().random_raw(4))
        reach = 1.0 if self.crop == "random" else 0.0
        shift = own.uniform(-reach, reach, (count, 2))
        light = (own.uniform(1 - v, 1 + v, count) for v in (self.brightness, self.contrast, self.saturation))
        return Draw(
            Geometry(torch.from_numpy(flip), _float32(zoom), _float32(angle), _float32(shift)),
            Photometry(*map(_float32, light)),
        )

    def __call__(self, batch: Batch, drawn: Draw) -> Batch:
        """Apply a draw to a batch whose image and labels have the same size, on whichever device they lie.

        The image comes back as float32 in 0..255 where it was warped or its light changed, else in its own type.
        """
        image, value, valid = adjust(batch.image, drawn.photometry), batch.value, batch.valid
        geometry = drawn.geometry
        affine, flips = geometry.is_affine, bool(geometry.flip.any())  # asked on the CPU, where the draw was made
        geometry = geometry.to(image.device)
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


def _float32(drawn: np.ndarray) -> Tensor:
    return torch.from_numpy(drawn.astype(np.float32))


def _flip(tensor: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip.view(-1, 1, 1, 1), tensor.flip(-1), tensor)


def source_coordinates(geometry: Geometry, height: int, width: int) -> Tensor:
    """(B, H, W, 2): the source pixel (x, y) that each output pixel shows.

    The sample is flipped first, then its window rotated and zoomed about the window's centre; this is that map's
    inverse.
    """
    device = geometry.zoom.device
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
    cos, sin = ((f(geometry.angle) / geometry.zoom).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    # Measured between pixel centres: a window at the image's edge is then never mixed with what lies outside.
    room = (1 - 1 / geometry.zoom).clamp(min=0) / 2
    shift_x, shift_y = ((geometry.shift[:, i] * room * n).view(-1, 1, 1) for i, n in enumerate((width - 1, height - 1)))
    # Image rows grow downwards: content turned counter-clockwise as seen comes from a point turned clockwise.
    source_x = cos * x.view(1, 1, -1) + (shift_x - sin * y.view(1, -1, 1))
    source_y = sin * x.view(1, 1, -1) + (shift_y + cos * y.view(1, -1, 1))
    source_x = torch.where(geometry.flip.view(-1, 1, 1), -source_x, source_x)
    return torch.stack([source_x + (width - 1) / 2, source_y + (height - 1) / 2], dim=-1)


def _warp(
    image: Tensor, value: dict[str, Tensor], valid: dict[str, Tensor], geometry: Geometry
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    batch, _, height, width = image.shape
    source = source_coordinates(geometry, height, width)
    scale = torch.cat([source.new_full((1,), 2 / max(side - 1, 1)) for side in (width, height)])  # filled in there
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
