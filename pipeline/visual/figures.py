"""What a person looks at: picture panels, training curves, the bars of Δm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # drawn to files only; no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.core import paths
from pipeline.data.sample import Sample
from pipeline.results.comparison import Gain, Score
from pipeline.tasks import get_task
from pipeline.tasks.spec import TaskContext
from pipeline.visual.paint import paint

_DPI = 130
_BASELINE = "#8c8c8c"
# Safe for colour-blind readers: Okabe and Ito, "Color Universal Design", 2008, with grey for yellow and black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DARK_PALETTE = ("#3f9fe0", "#ff8f52", "#2fc79b", "#e2a0c8", "#f2b93b", "#9bd7fa", "#a9a9a9")
"""The same hues, light enough for a dark page."""
_DASHES = ("-", "--", ":", "-.")  # for one turn of the palette after the other; _HATCHES: the same of bars
_HATCHES = ("", "//", "..", "xx")


def run_styles(runs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and line style of each run, as matplotlib's arguments: the same in every figure of the same runs."""
    count = len(PALETTE)
    return {
        run: {"color": PALETTE[i % count], "linestyle": _DASHES[i // count % len(_DASHES)]}
        for i, run in enumerate(runs)
    }


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all. Raises OSError."""
    try:
        with paths.atomic(path, "wb") as file:
            figure.savefig(
                file, format="png", dpi=_DPI, bbox_inches="tight", facecolor="white", metadata={"Software": None}
            )
    finally:
        plt.close(figure)


def panel(
    sample: Sample,
    columns: Mapping[str, Mapping[str, np.ndarray]],
    tasks: Sequence[str],
    contexts: Mapping[str, TaskContext],
) -> Figure:
    """One sample: a row for each task; image, label, then one column of predictions for each entry of `columns`.

    columns: {title: {task: prediction in a label's layout}}; a cell without prediction stays empty. In the label's
    column grey means: no label there.
    """
    height, width = sample.image.shape[:2]
    titles = ["image", "label", *columns]
    figure, axes = plt.subplots(
        len(tasks),
        len(titles),
        figsize=(2.3 * len(titles), 2.3 * len(tasks) * height / width + 0.3),
        squeeze=False,
        gridspec_kw={"wspace": 0.03, "hspace": 0.05},
    )
    for row, task in zip(axes, tasks, strict=True):
        label = sample.labels[task]
        everywhere = np.ones_like(label.valid)
        cells: list[np.ndarray | None] = [sample.image, paint(task, label.value, label.valid, contexts[task])]
        for predictions in columns.values():
            found = predictions.get(task)
            cells.append(None if found is None else paint(task, found, everywhere, contexts[task]))
        for axis, cell in zip(row, cells, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(cell is not None)
            if cell is not None:
                axis.imshow(cell, interpolation="nearest", aspect="auto")
        row[0].set_ylabel(_row_title(task, contexts[task]), fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def _row_title(task: str, context: TaskContext) -> str:
    spec = get_task(task)
    return (
        spec.title
        if context.middle is None
        else f"{spec.title} (green: {context.middle:.3g} {spec.unit}".rstrip() + ")"
    )


def curves(histories: Mapping[str, Sequence[pd.DataFrame]], tasks: Sequence[str]) -> Figure:
    """Loss of the final prediction and primary metric score by epoch: a column for each task, a line for each run.

    Lines are means over seeds. Auxiliary losses are left out: networks that have them would only look worse.
    """
    figure, axes = plt.subplots(
        2, len(tasks), figsize=(3.4 * len(tasks) + 0.6, 5), squeeze=False, sharex=True, layout="constrained"
    )
    styles = run_styles(histories)
    for column, name in enumerate(tasks):
        task = get_task(name)
        for axis, key in ((axes[0, column], f"loss/{name}"), (axes[1, column], f"{name}/{task.primary_metric}")):
            for run, frames in histories.items():
                seeds = [frame.set_index("epoch")[key].dropna() for frame in frames if key in frame]
                if not seeds:
                    continue
                mean = pd.concat(seeds, axis=1).mean(axis=1)
                marker = "o" if len(mean) < 12 else None
                axis.plot(mean.index, mean, marker=marker, ms=3, label=run, **styles[run])
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0, column].set_title(task.title, fontsize=10)
        axes[0, column].set_ylabel("training loss" if column == 0 else "")
        arrow = "higher is better" if task.higher_is_better else "lower is better"
        axes[1, column].set_ylabel(f"{task.primary_metric} ({arrow})", fontsize=8)
        axes[1, column].set_xlabel("epoch")
    handles: dict[str, Artist] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    lines, runs = list(handles.values()), list(handles)
    if runs:  # none where all are adopted
        figure.legend(lines, runs, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8)
    return figure


def gain_curves(curves: Mapping[str, pd.DataFrame], styles: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Δm against steps, a line for each run, its interval shaded.

    curves: {run: mean, low and high by step}. styles: those of `run_styles`.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for run, curve in curves.items():
        marker = "o" if len(curve) < 16 else None
        axis.plot(curve.index, curve["mean"], marker=marker, ms=3, label=run, **styles[run])
        if curve["low"].notna().all():
            axis.fill_between(curve.index, curve["low"], curve["high"], color=styles[run]["color"], alpha=0.15, lw=0)
    bounds = np.concatenate([curve["mean"] for curve in curves.values()] + [[0.0]])
    margin = 1.5 * (bounds.max() - bounds.min()) + 1  # of two seeds an interval hides everything else
    axis.set_ylim(bounds.min() - margin, bounds.max() + margin)
    axis.axhline(0, color=_BASELINE, lw=1)
    axis.set(xlabel="steps", ylabel="Δm, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    return figure


def gains(scores: Mapping[str, Mapping[str, Score]], delta_m: Mapping[str, Gain]) -> Figure:
    """Relative gain over the single-task baseline by task, and Δm with its 95 % interval, for each multi-task run.

    scores: of all runs, baselines too. Colours are those of `run_styles` of them.
    """
    runs = list(delta_m)
    tasks = list(dict.fromkeys(task for run in runs for task in scores[run]))
    titles = [get_task(task).title for task in tasks] + ["Δm, 95 %"]
    figure, axis = plt.subplots(figsize=(1.6 * len(titles) + 2, 3.4), layout="constrained")
    width = 0.8 / len(runs)
    styles = run_styles(scores)
    for i, run in enumerate(runs):
        found = [scores[run][task].delta if task in scores[run] else None for task in tasks]
        values = [np.nan if gain is None else gain for gain in found] + [delta_m[run].mean]
        places = np.arange(len(titles)) + (i - (len(runs) - 1) / 2) * width
        hatch = _HATCHES[_DASHES.index(styles[run]["linestyle"])]
        bars = axis.bar(places, values, width, color=styles[run]["color"], hatch=hatch, edgecolor="white", label=run)
        labels = ["" if np.isnan(v) else f"{round(v, 1) + 0.0:+.1f}" for v in values]
        if interval := delta_m[run].interval:
            middle, low, high = values[-1], interval.low, interval.high
            axis.errorbar(places[-1], middle, [[middle - low], [high - middle]], color="black", capsize=3, lw=1)
            top = places[-1], max(high, 0.0)
            axis.annotate(labels.pop(), top, (0, 3), textcoords="offset points", ha="center", fontsize=7)
            labels.append("")
        axis.bar_label(bars, labels, fontsize=7, padding=2)
    axis.axhline(0, color=_BASELINE, lw=1)
    axis.set_xticks(range(len(titles)), titles)
    axis.set_ylabel("gain over single task, %")
    axis.margins(y=0.15)
    axis.legend(fontsize=8, frameon=False)
    return figure
