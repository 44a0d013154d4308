"""Depth as a 16-bit PNG in millimetres, as depth cameras and many data sets have it; it says its scale itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.core import paths

SCALE = 1000
"""Units a metre: `depth_scale` of a dataset.yaml that reads such files as labels."""
_LARGEST = np.iinfo(np.uint16).max
MOST_METRES = _LARGEST / SCALE


def write_millimetres(path: Path, metres: np.ndarray) -> bool:
    """Write (H, W) metres, whole or not at all; returns whether values beyond MOST_METRES were clipped to it.

    0, which readers take for "no depth", stands for what is below half a millimetre, negative predictions too. The
    text chunks `depth_scale` and `unit` hold the scale. Raises OSError.
    """
    units = np.rint(metres.astype(np.float64) * SCALE)
    text = PngInfo()
    text.add_text("depth_scale", str(SCALE))
    text.add_text("unit", "mm")
    with paths.atomic(path, "wb") as file:
        Image.fromarray(units.clip(0, _LARGEST).astype(np.uint16)).save(file, format="PNG", pnginfo=text)
    return bool((units > _LARGEST).any())
