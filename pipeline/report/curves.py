"""The report's section on training: losses, scores and Δm as training proceeds, from the histories of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.comparison.estimate import half_width
from pipeline.core import paths
from pipeline.metrics.delta import multi_task_performance
from pipeline.report.content import Content
from pipeline.results.comparison import Comparison
from pipeline.tasks import get_task
from pipeline.visual import figures

ABOUT = (
    "Δm while training, by the scores of `validate_every`; shaded: 95 % over seeds. All points of a curve are of one "
    "training, whose learning rate still falls: a training that ends there scores otherwise."
)
_FEWEST = 3  # points that make a curve


def curves_section(content: Content) -> str:
    """Draw the curves into reports/figures."""
    figures.save(figures.curves(content.histories, content.tasks), paths.FIGURES / "curves.png")
    text = "![Training curves](figures/curves.png)"
    if found := gain_curves_of(content):
        figures.save(
            figures.gain_curves(found, figures.run_styles(content.results)), paths.FIGURES / "gain_by_step.png"
        )
        text += f"\n\n![Δm by step](figures/gain_by_step.png)\n\n{ABOUT}"
    return text


def gain_curves_of(content: Content) -> dict[str, pd.DataFrame]:
    """Those of the report's runs, see `gain_curves`."""
    steps = {
        name: max(1, seeds[0].training_samples // content.params.run(name).training.batch_size)
        for name, seeds in content.results.items()
    }
    return gain_curves(content.delta, content.histories, steps)


def gain_curves(
    delta: Comparison, histories: Mapping[str, Sequence[pd.DataFrame]], steps: Mapping[str, int]
) -> dict[str, pd.DataFrame]:
    """{run: its Δm}, by `step`: columns mean, low and high, a 95 % interval over seeds, NaN for a single one.

    histories: of each run, a frame for each seed. steps: of an epoch. A point is an epoch in which the run and all its
    baselines were scored with every seed; runs with fewer than three are left out. Each curve follows one schedule of
    the learning rate, which at a point before its end is still high: Δm of a shorter training is another.
    """
    found = {}
    for run in delta.delta_m:
        baselines = {task: score.baseline_run for task, score in delta.scores[run].items()}
        seeds = []
        for seed, frame in enumerate(histories[run]):
            others = {task: histories[name][seed] for task, name in baselines.items() if name is not None}
            seeds.append(_gains(frame, others))
        gains = pd.concat(seeds, axis=1).dropna()
        if len(gains) >= _FEWEST:
            found[run] = _interval(gains, steps[run])
    return found


def _gains(frame: pd.DataFrame, baselines: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Δm of one seed by epoch, of those in which everything was scored."""
    names = {task: get_task(task).primary_metric for task in baselines}
    scores = {task: _by_epoch(frame, f"{task}/{metric}") for task, metric in names.items()}
    others = {task: _by_epoch(baselines[task], f"{task}/{metric}") for task, metric in names.items()}
    signs = {task: get_task(task).higher_is_better for task in baselines}
    gains = {}
    for epoch in sorted(set.intersection(*(set(each) for each in (*scores.values(), *others.values())))):
        try:
            gains[epoch] = multi_task_performance(
                {task: of[epoch] for task, of in scores.items()},
                {task: of[epoch] for task, of in others.items()},
                signs,
            )
        except ValueError:  # a baseline of 0: not one pixel right as yet
            continue
    return pd.Series(gains, dtype=float)


def _by_epoch(frame: pd.DataFrame, column: str) -> dict[int, float]:
    if column not in frame:
        return {}
    return {
        int(epoch): float(value)
        for epoch, value in zip(frame["epoch"], frame[column], strict=True)
        if np.isfinite(value)
    }


def _interval(gains: pd.DataFrame, steps: int) -> pd.DataFrame:
    count = gains.shape[1]
    variance = gains.var(axis=1, ddof=1).fillna(0) / count
    half = np.array([half_width(0.0, each, 1.0, count) for each in variance]) if count > 1 else np.nan
    mean = gains.mean(axis=1)
    curve = pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})
    return curve.set_axis(pd.Index(gains.index * steps, name="step"))
