"""What one pixel gathered by cross attention, on a page: a row for each scale, a column for each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
_MOST = 4.0  # times the mean weight that gets the brightest colour
_COLOURS = "inferno"
_OPAQUE = 0.65  # of the colours over the photograph

Place = tuple[float, float]
"""Of a pixel: how far down and how far right in the image, each at least 0 and below 1."""


@dataclass(frozen=True)
class Gathered:
    """One answer: what a map took at one pixel from another map.

    weights: (h, w) float32, where in the source; they add up to 1. change: how much of the raw prediction at the pixel
    depends on it: the norm of the difference that it makes to take the answer's mean over the image instead, over the
    norm of the prediction. 0: none.
    """

    weights: np.ndarray
    change: float


@dataclass(frozen=True)
class TaskAttention:
    """Of one task and one pixel: what each of K scales gathered, by task (CTAM) and by coarser scale (CSAM).

    Scales are numbered from the finest, 0. A module that the network has not leaves its mappings empty, as the coarsest
    scale does for CSAM.
    """

    tasks: tuple[Mapping[str, Gathered], ...]
    scales: tuple[Mapping[int, Gathered], ...]


def attention_page(photo: np.ndarray, place: Place, attention: TaskAttention, title: str) -> Figure:
    """photo: (H, W, 3) uint8 RGB.

    Colours are weights as multiples of their mean, so a source that is asked everywhere alike is dark violet all over;
    what they lie on is the photograph in grey. Above each picture stands what the answer changes in the prediction.
    """
    photo = fit(photo, _LONGEST, enlarge=True)  # small maps stay sharp
    grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    rows = [_cells(*of) for of in zip(attention.tasks, attention.scales, strict=True)]
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
                changes = f"from {source}: {100 * cells[source].change:.3g} %"
                _draw(axis, _coloured(grey, cells[source].weights), place, changes)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, _MOST), _COLOURS), ax=list(axes.flat), location="bottom", fraction=0.04, aspect=50
    )
    bar.set_label("attention weight, times its mean over the source; in %: how much the answer changes the prediction")
    figure.suptitle(f"{title}\nCTAM gathers from tasks, CSAM from coarser scales", fontsize=11)
    return figure


def _cells(tasks: Mapping[str, Gathered], scales: Mapping[int, Gathered]) -> dict[str, Gathered]:
    """What one scale gathered, by the name of the source."""
    return {**tasks, **{f"scale {source + 1}": gathered for source, gathered in scales.items()}}


def _coloured(grey: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights, pixel for pixel as large as they are, over the photograph in grey."""
    height, width = grey.shape[:2]
    level = (weights * weights.size / _MOST).clip(0, 1)
    colours = plt.get_cmap(_COLOURS)(level, bytes=True)[..., :3]
    colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.rint(_OPAQUE * colours + (1 - _OPAQUE) * grey).astype(np.uint8)


def _draw(axis: Axes, picture: np.ndarray, place: Place, title: str) -> None:
    height, width = picture.shape[:2]
    axis.imshow(picture, interpolation="nearest")
    axis.plot(place[1] * width, place[0] * height, "+", color="black", markersize=11, markeredgewidth=3.5)
    axis.plot(place[1] * width, place[0] * height, "+", color="white", markersize=9, markeredgewidth=1.5)
    axis.set_title(title, fontsize=8)
