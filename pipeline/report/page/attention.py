"""Cross attention of one pixel: for each run and task a table of maps, a row a scale, a column a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.evaluation.attention import Gathered, TaskAttention, middle_of
from pipeline.report.attention import (
    OPEN,
    attention_by_run,
    first_sample,
    largest,
    largest_text,
    percent,
    scale_title,
    source_title,
    sources_of,
)
from pipeline.report.content import Content
from pipeline.tasks import get_task
from pipeline.visual.attention_page import BRIGHTEST, OPAQUE, in_grey, weight_colours, weight_scale
from pipeline.visual.embedded import data_uri

_WIDTH = 100  # of a picture, in units of its drawing
_PHOTOGRAPH = 240  # pixels of its longer side
_MAP = 48  # of a map's; larger ones are averaged


@dataclass(frozen=True)
class Map:
    """What one answer gathered: where, as a picture; `about` it, in words; the change of the prediction.

    most: whether no answer of this task changes it more.
    """

    picture: str
    about: str
    change: str
    most: bool


@dataclass(frozen=True)
class TaskMaps:
    """Of one run and task. head: sources. rows: a scale's name, and its maps; None where there is no such answer."""

    title: str
    largest: str
    head: list[str]
    rows: list[tuple[str, list[Map | None]]]


@dataclass(frozen=True)
class Attention:
    """All of the section. about: the image, in words. photograph, grey: the image, and what maps lie on.

    width, height, x, y: of pictures, and where the pixel lies in them, in units of their drawings. opaque: of maps.
    scale: colours from no weight to `brightest` times the mean. open: runs that are not folded away.
    """

    sample: str
    about: str
    photograph: str
    grey: str
    width: float
    height: float
    x: float
    y: float
    opaque: float
    scale: list[str]
    brightest: float
    runs: dict[str, list[TaskMaps]]
    open: int


def attention(content: Content) -> Attention | None:
    """What the middle pixel of the first shown sample gathered; None where no run has cross attention."""
    runs = attention_by_run(content)
    if not runs:
        return None
    sample = first_sample(content)
    image = sample.image
    down, right = middle_of(image)
    height = _WIDTH * image.shape[0] / image.shape[1]
    return Attention(
        sample=sample.id,
        about=f"Image of sample {sample.id}, a cross on its middle pixel",
        photograph=data_uri(image, _PHOTOGRAPH, photograph=True),
        grey=data_uri(in_grey(image), _PHOTOGRAPH, photograph=True),
        width=_WIDTH,
        height=round(height, 2),
        x=round(_WIDTH * right, 2),
        y=round(height * down, 2),
        opaque=OPAQUE,
        scale=weight_scale(),
        brightest=BRIGHTEST,
        runs={run: [_maps(run, task, of) for task, of in tasks.items()] for run, tasks in runs.items()},
        open=OPEN,
    )


def _maps(run: str, task: str, attention: TaskAttention) -> TaskMaps:
    title, rows = get_task(task).title, attention.rows
    names, (most, _, _) = sources_of(rows), largest(rows)
    return TaskMaps(
        title=title,
        largest=largest_text(rows),
        head=[source_title(name) for name in names],
        rows=[
            (scale_title(k), [_map(f"{title} of {run}, scale {k + 1}", name, row, most) for name in names])
            for k, row in enumerate(rows)
        ],
    )


def _map(target: str, source: str, row: Mapping[str, Gathered], most: float) -> Map | None:
    if source not in row:
        return None
    weights, change = row[source]
    y, x = np.unravel_index(weights.argmax(), weights.shape)
    right, down = (x + 0.5) / weights.shape[1], (y + 0.5) / weights.shape[0]
    times = weights.max() * weights.size
    about = (
        f"{target}, weights over {source_title(source)}: the largest is {times:.1f} times the mean, "
        f"{100 * right:.0f} % from the left and {100 * down:.0f} % from the top"
    )
    return Map(data_uri(weight_colours(_averaged(weights)), _MAP), about, percent(change), change == most)


def _averaged(weights: np.ndarray) -> np.ndarray:
    """At most `_MAP` pixels a side; they still add up to 1."""
    height, width = weights.shape
    longest = max(height, width)
    if longest <= _MAP:
        return weights
    size = max(1, round(width * _MAP / longest)), max(1, round(height * _MAP / longest))
    smaller = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)
    return smaller / smaller.sum()
