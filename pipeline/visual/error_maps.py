"""Where a prediction is wrong, as a picture: dark is right, the brighter the more wrong, grey is not labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.data.sample import Label
from pipeline.visual.paint import INVALID

_MAP = "inferno"  # ordered by lightness: readable in grey, and by colour-blind readers


@dataclass(frozen=True)
class ErrorMap:
    """How far off a task's prediction is, pixel by pixel.

    error: (prediction, label's value) in a label's layout -> (H, W), 0 where it is right. top: what is painted as the
    brightest, and all beyond. shown: `top` in words.
    """

    error: Callable[[np.ndarray, np.ndarray], np.ndarray]
    top: float
    shown: str


def _other(prediction: np.ndarray, value: np.ndarray) -> np.ndarray:
    return (prediction != value).astype(np.float64)


def _difference(prediction: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.abs(prediction.astype(np.float64) - value)


def _relative(prediction: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.abs(prediction.astype(np.float64) - value) / np.maximum(value, 1e-3)


def _angle(prediction: np.ndarray, value: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(value, axis=-1)
    cosine = (prediction.astype(np.float64) * value).sum(-1) / np.maximum(lengths, 1e-12)
    return np.rad2deg(np.arccos(cosine.clip(-1, 1)))


_CLASSES = ErrorMap(_other, 1.3, "another class")  # wrong at three quarters of the scale: the rest is near white
ERROR_MAPS = {
    "semseg": _CLASSES,
    "human_parts": _CLASSES,
    "sal": ErrorMap(_difference, 1.0, "a probability off by 1"),
    "depth": ErrorMap(_relative, 0.5, "half the depth off"),
    "disparity": ErrorMap(_relative, 0.5, "half the disparity off"),
    "normals": ErrorMap(_angle, 45.0, "45 degrees off"),
    "edge": ErrorMap(_difference, 1.0, "a probability off by 1"),
}


def paint_errors(task: str, prediction: np.ndarray, label: Label) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a prediction in its label's layout and size."""
    from matplotlib import colormaps

    of = ERROR_MAPS[task]
    level = np.nan_to_num(np.where(label.valid, of.error(prediction, label.value), 0.0) / of.top).clip(0, 1)
    return np.where(label.valid[..., None], colormaps[_MAP](level, bytes=True)[..., :3], INVALID)


def scale_colours(task: str, count: int = 9) -> list[str]:
    """Colours from right to wrong, as #rrggbb, for a key: all that occur, or where something is right or wrong, two."""
    from matplotlib import colormaps

    levels = np.linspace(0, 1, count)
    if ERROR_MAPS[task].error is _other:
        levels = (levels > 0.5) / ERROR_MAPS[task].top
    colours = colormaps[_MAP](levels, bytes=True)[:, :3]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]
