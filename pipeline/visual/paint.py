"""Labels and predictions as pictures: (H, W[, 3]) values and (H, W) bool valid -> (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core import paths

if TYPE_CHECKING:
    from pipeline.tasks.spec import TaskContext

INVALID = np.array([128, 128, 128], np.uint8)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, whole or not at all. Raises OSError, which OpenCV's own writer keeps to itself."""
    import cv2

    with paths.atomic(path, "wb") as file:
        file.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def fit(picture: np.ndarray, longest: int, enlarge: bool = False) -> np.ndarray:
    """The picture with a longer side of at most `longest` pixels; exactly so, in whole pixels, where it may grow."""
    import cv2

    factor = longest / max(picture.shape[:2])
    if factor >= 1 and not enlarge:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)


def paint_classes(value: np.ndarray, valid: np.ndarray, context: TaskContext) -> np.ndarray:
    """Class index -> colour of a fixed palette; class 0 is black."""
    return _finish(palette(256 if context.classes is None else len(context.classes))[value], valid)


def paint_grey(value: np.ndarray, valid: np.ndarray, context: TaskContext) -> np.ndarray:
    """0 -> black, 1 -> white."""
    level = np.nan_to_num(np.asarray(value, np.float32)).clip(0, 1)
    return _finish(np.repeat(np.rint(level * 255).astype(np.uint8)[..., None], 3, axis=2), valid)


def paint_depth(value: np.ndarray, valid: np.ndarray, context: TaskContext) -> np.ndarray:
    """Metres -> turbo colormap, near is warm: m / (d + m), where the depth m gets the middle colour."""
    depth = _positive(value)
    middle = _middle(depth, valid, context)
    return _turbo(middle / (depth + middle), valid)


def paint_disparity(value: np.ndarray, valid: np.ndarray, context: TaskContext) -> np.ndarray:
    """Disparity -> the colours of depth, near is warm: d / (d + m)."""
    disparity = _positive(value)
    return _turbo(disparity / (disparity + _middle(disparity, valid, context)), valid)


def with_middle(context: TaskContext, values: Sequence[np.ndarray]) -> TaskContext:
    """`context` with one scale for all pictures of labels and their predictions, so that they can be compared.

    values: the valid ones of each label. Their median gets the middle colour: rooms and streets both use all colours.
    """
    found = np.concatenate(values) if values else np.empty(0)
    return replace(context, middle=float(np.median(found))) if found.size else context


def _positive(value: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(value, np.float32)).clip(min=0)


def _middle(value: np.ndarray, valid: np.ndarray, context: TaskContext) -> float:
    """The value of the middle colour: the context's, else the median of what is painted."""
    if context.middle is None:
        shown = value[valid]
        middle = float(np.median(shown)) if shown.size else 0.0
    else:
        middle = context.middle
    return middle if middle > 0 else 1.0


def _turbo(level: np.ndarray, valid: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps  # slow to import, and only pictures need it

    return _finish(colormaps["turbo"](level, bytes=True)[..., :3], valid)


def paint_normals(value: np.ndarray, valid: np.ndarray, context: TaskContext) -> np.ndarray:
    """Components -1 .. 1 -> red (right), green (up), blue (towards the camera)."""
    level = (np.nan_to_num(np.asarray(value, np.float32)).clip(-1, 1) + 1) / 2
    return _finish(np.rint(level * 255).astype(np.uint8), valid)


Painter = Callable[[np.ndarray, np.ndarray, "TaskContext"], np.ndarray]

PAINTERS: dict[str, Painter] = {
    "semseg": paint_classes,
    "human_parts": paint_classes,
    "sal": paint_grey,
    "depth": paint_depth,
    "disparity": paint_disparity,
    "normals": paint_normals,
    "edge": paint_grey,
}
MEASURED = ("depth", "disparity")
"""Tasks whose values are lengths, painted relative to a middle one, `TaskContext.middle`."""


def paint(task: str, value: np.ndarray, valid: np.ndarray, context: TaskContext) -> np.ndarray:
    """A label or decoded prediction of `task` as uint8 (H, W, 3) RGB for people; grey where not valid."""
    return PAINTERS[task](value, valid, context)


@cache
def palette(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB colours, as different to the eye as they come.

    A longer palette starts with the shorter one. Farthest-point sampling in Oklab (Ottosson 2020), away from
    the grey that marks invalid pixels. Black comes first.
    """
    steps = np.linspace(0, 255, 12).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(candidates)
    chosen = [0]
    distance = np.linalg.norm(lab - _oklab(INVALID), axis=1)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    colours = candidates[chosen[:count]]
    colours.flags.writeable = False  # the cache hands the same array to everyone
    return colours


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) uint8 -> Oklab, where distances are those the eye sees."""
    level = rgb / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [[0.4122214708, 0.2119034982, 0.0883024619],
         [0.5363325363, 0.6806995451, 0.2817188376],
         [0.0514459929, 0.1073969566, 0.6299787005]]
    )  # fmt: skip
    return np.cbrt(cones) @ np.array(
        [[0.2104542553, 1.9779984951, 0.0259040371],
         [0.7936177850, -2.4285922050, 0.7827717662],
         [-0.0040720468, 0.4505937099, -0.8086757660]]
    )  # fmt: skip


def _finish(colours: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid[..., None], colours, INVALID)
