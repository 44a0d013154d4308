"""What one pixel gathered by cross attention, on a page: a row for each scale, a column for each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.visual.paint import fit

_LONGEST = 480  # pixels of a picture's longer side
BRIGHTEST = 4.0
"""Times the mean weight that gets the brightest colour."""
OPAQUE = 0.65
"""Of the colours over the photograph."""
_COLOURS = "inferno"  # ordered by lightness: readable in grey, and by colour-blind readers


def attention_page(
    photo: np.ndarray,
    place: tuple[float, float],
    rows: Sequence[Mapping[str, tuple[np.ndarray, float]]],
    title: str,
) -> Figure:
    """photo: (H, W, 3) uint8 RGB. place: of the pixel, how far down and how far right.

    rows: of each scale, the finest first, by the name of a source the weights (h, w) and what they change (see
    `Gathered`). Colours are weights as multiples of their mean, so a source that is asked everywhere alike is dark
    violet all over; what they lie on is the photograph in grey. Above each picture stands what the answer changes in
    the prediction.
    """
    photo = fit(photo, _LONGEST, enlarge=True)  # small maps stay sharp
    grey = in_grey(photo)
    sources = list(dict.fromkeys(source for row in rows for source in row))
    columns = 1 + len(sources)
    height, width = photo.shape[:2]
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(2.4 * columns, (2.4 * height / width + 0.3) * len(rows) + 1.3),
        squeeze=False,
        layout="constrained",
    )
    for k, (row, cells) in enumerate(zip(axes, rows, strict=True)):
        for axis in row:
            axis.set_axis_off()
        _draw(row[0], photo, place, f"scale {k + 1}" + (" (finest)" if k == 0 else ""))
        for axis, source in zip(row[1:], sources, strict=True):
            if source in cells:
                weights, change = cells[source]
                worth = f"{100 * change:.3g} %" if np.isfinite(change) else "–"
                _draw(axis, _over(grey, weights), place, f"from {source}: {worth}")
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, BRIGHTEST), _COLOURS),
        ax=list(axes.flat),
        location="bottom",
        fraction=0.04,
        aspect=50,
    )
    bar.set_label("attention weight, times its mean over the source; in %: how much the answer changes the prediction")
    figure.suptitle(f"{title}\nCTAM gathers from tasks, CSAM from coarser scales", fontsize=11)
    return figure


def in_grey(photo: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same shape, without its colours."""
    return np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def weight_colours(weights: np.ndarray) -> np.ndarray:
    """Weights (h, w) that add up to 1 -> (h, w, 3) uint8 RGB, by their multiples of the mean."""
    level = (weights * weights.size / BRIGHTEST).clip(0, 1)
    return plt.get_cmap(_COLOURS)(level, bytes=True)[..., :3]


def weight_scale(count: int = 9) -> list[str]:
    """Colours from no weight to `BRIGHTEST` times the mean, as #rrggbb, for a key."""
    colours = plt.get_cmap(_COLOURS)(np.linspace(0, 1, count), bytes=True)[:, :3]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]


def _over(grey: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights, pixel for pixel as large as they are, over the photograph in grey."""
    height, width = grey.shape[:2]
    colours = cv2.resize(weight_colours(weights), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.rint(OPAQUE * colours + (1 - OPAQUE) * grey).astype(np.uint8)


def _draw(axis: Axes, picture: np.ndarray, place: tuple[float, float], title: str) -> None:
    height, width = picture.shape[:2]
    axis.imshow(picture, interpolation="nearest")
    axis.plot(place[1] * width, place[0] * height, "+", color="black", markersize=11, markeredgewidth=3.5)
    axis.plot(place[1] * width, place[0] * height, "+", color="white", markersize=9, markeredgewidth=1.5)
    axis.set_title(title, fontsize=8)
