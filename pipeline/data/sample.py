"""What a dataset hands over: an image and, for each task, a label with the pixels where it counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Label:
    """One task's label.

    value: semseg, human_parts (H, W) uint8 class index from 0; sal, edge (H, W) uint8, 0 or 1; depth (H, W) float32,
        metres; disparity (H, W) float32, 0..1 in the dataset's unit, larger is nearer; normals (H, W, 3) float32
        unit vectors, x right, y up, z towards the camera. Arbitrary where not valid.
        A reader of normals that come in 8 bits hands over those, (H, W, 3) uint8: the store keeps them, at a quarter
        of the size, and decodes them with `decode_normals` when they are read.
    valid: (H, W) bool. A dataset's ignore codes (0, 255, ...) end here; nothing later knows them.
    """

    value: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Sample:
    """One image, (H, W, 3) uint8 RGB, with its labels by task name. A label may differ in size from the image."""

    id: str
    image: np.ndarray
    labels: dict[str, Label]


def decode_normals(codes: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 codes v -> float32 unit vectors along 2 v / 255 - 1.

    No code is a zero vector: 127 and 128 lie on both sides of it.
    """
    vectors = codes.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return vectors / np.sqrt(x * x + y * y + z * z)[..., None]  # ten times as fast as linalg.norm on the last axis


def is_coded(value: np.ndarray) -> bool:
    """Whether these are normals in 8 bits; no other label has three channels."""
    return value.dtype == np.uint8 and value.ndim == 3
