"""Predictions of one photograph on one page: a row for each network, a column for each task, with their keys."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.tasks import get_task
from pipeline.tasks.spec import TaskContext
from pipeline.visual.paint import MEASURED, PAINTERS, paint, paint_classes, palette, with_middle

_LONGEST = 700  # pixels of a picture's longer side
_STEPS = (1, 2, 5)  # times a power of ten: values that a scale of lengths names

Predictions = Mapping[str, Mapping[str, np.ndarray]]
"""{network: {task: prediction in a label's layout, (H, W) or (H, W, 3)}}."""


def overview(photo: np.ndarray, predictions: Predictions, contexts: Mapping[str, TaskContext]) -> Figure:
    """photo: (H, W, 3) uint8 RGB. contexts: of every task that is predicted.

    Lengths have one scale for all networks, in the task's unit; classes that occur are named beside their colours.
    """
    tasks = list(dict.fromkeys(task for of in predictions.values() for task in of))
    height, width = photo.shape[:2]
    rows, columns = len(predictions), 1 + len(tasks)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.6 * columns, 2.6 * rows * height / width + 1.2),
        squeeze=False,
        layout="constrained",
    )
    own = {task: _shared(task, contexts[task], predictions) for task in tasks}
    for row, (network, of) in zip(axes, predictions.items(), strict=True):
        _draw(row[0], photo)
        row[0].set_ylabel(network, fontsize=9)
        for axis, task in zip(row[1:], tasks, strict=True):
            if task in of:
                _draw(axis, paint(task, of[task], np.ones(of[task].shape[:2], bool), own[task]))
            else:
                axis.set_axis_off()
    axes[0, 0].set_title("photograph", fontsize=9)
    for axis, task in zip(axes[0, 1:], tasks, strict=True):
        axis.set_title(get_task(task).title, fontsize=9)
    for index, task in enumerate(tasks):
        if task in MEASURED:
            _scale(figure, axes[:, 1 + index], task, own[task])
    if patches := [patch for task in tasks for patch in _classes(task, own[task], predictions)]:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), fontsize=7)
    return figure


def _draw(axis: Axes, picture: np.ndarray) -> None:
    step = max(1, -(-max(picture.shape[:2]) // _LONGEST))
    axis.imshow(picture[::step, ::step], interpolation="nearest", aspect="auto")
    axis.set(xticks=[], yticks=[])


def _shared(task: str, context: TaskContext, predictions: Predictions) -> TaskContext:
    """With the middle of all networks' lengths."""
    if task not in MEASURED:
        return context
    return with_middle(context, [of[task].ravel().clip(min=0) for of in predictions.values() if task in of])


def _scale(figure: Figure, axes: np.ndarray, task: str, context: TaskContext) -> None:
    """The colours of a task's lengths below its column."""
    middle = context.middle or 1.0
    ticks = [step * 10.0**power for power in range(-2, 4) for step in _STEPS]
    level = {tick: middle / (tick + middle) if task == "depth" else tick / (tick + middle) for tick in ticks}
    shown = {tick: at for tick, at in level.items() if 0.12 < at < 0.88}
    bar = figure.colorbar(ScalarMappable(cmap="turbo"), ax=list(axes), location="bottom", fraction=0.06, pad=0.02)
    bar.set_ticks(list(shown.values()), labels=[f"{tick:g}" for tick in shown])
    bar.ax.tick_params(labelsize=7)
    bar.set_label(get_task(task).unit, fontsize=7)


def _classes(task: str, context: TaskContext, predictions: Predictions) -> list[Patch]:
    """A patch for each class of a task that some network found."""
    if PAINTERS[task] is not paint_classes or context.classes is None:
        return []
    found = np.unique(np.concatenate([np.unique(of[task]) for of in predictions.values() if task in of]))
    colours = palette(len(context.classes)) / 255
    return [Patch(facecolor=colours[i], edgecolor="black", lw=0.5, label=context.classes[i]) for i in found]
