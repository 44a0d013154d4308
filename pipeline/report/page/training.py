"""Curves of the trainings, runs over one another: losses and scores by epoch, Δm by step."""

from __future__ import annotations

import pandas as pd

from pipeline.report.content import Content
from pipeline.report.curves import gain_curves_of
from pipeline.report.page.gains import Chart
from pipeline.tasks import get_task
from pipeline.visual.charts import Line, curves


def training_charts(content: Content) -> list[Chart]:
    """For each task the loss of its final prediction and, where epochs were scored, its metric; means over seeds."""
    charts = []
    for task in content.tasks:
        spec = get_task(task)
        better = "higher is better" if spec.higher_is_better else "lower is better"
        unit = f" [{spec.unit}]" if spec.unit else ""
        for name, key in (
            (f"{spec.title}: training loss", f"loss/{task}"),
            (f"{spec.title}: {spec.primary_metric}{unit}, {better}", f"{task}/{spec.primary_metric}"),
        ):
            lines = _lines(content, key)
            if any(len(line.x) > 1 for line in lines):
                ends = "; ".join(f"{line.run} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines)
                charts.append(Chart(name, curves(f"{name}, by epoch: {ends}", lines, "epoch")))
    return charts


def gain_chart(content: Content) -> Chart | None:
    """Δm by step, shaded over seeds; None where too few epochs were scored."""
    styles = {name: i for i, name in enumerate(content.results)}
    lines = []
    for run, curve in gain_curves_of(content).items():
        known = bool(curve["low"].notna().all())
        band = (curve["low"].tolist(), curve["high"].tolist()) if known else None
        lines.append(Line(run, styles[run], [float(x) for x in curve.index], curve["mean"].tolist(), band))
    if not lines:
        return None
    ends = "; ".join(f"{line.run} ends at {line.y[-1]:+.2f}" for line in lines)
    return Chart("Δm by step", curves(f"Δm in percent by step: {ends}", lines, "step", zero=True))


def _lines(content: Content, key: str) -> list[Line]:
    """A line a run that has this column, of the mean over its seeds."""
    lines = []
    for style, (run, frames) in enumerate(content.histories.items()):
        seeds = [frame.set_index("epoch")[key].dropna() for frame in frames if key in frame]
        if seeds and not (mean := pd.concat(seeds, axis=1).mean(axis=1)).empty:
            lines.append(Line(run, style, [float(x) for x in mean.index], mean.tolist()))
    return lines
