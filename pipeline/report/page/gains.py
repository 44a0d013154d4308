"""Gains over the single-task baselines by task, each with its 95 % interval, as charts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.comparison.estimate import interval
from pipeline.metrics.resampling import draw, resampled_performance, resampled_scores, scores_without_each
from pipeline.report.cells import bounds, number
from pipeline.report.content import Content
from pipeline.results.comparison import DELTA_M
from pipeline.tasks import get_task
from pipeline.visual.charts import Whisker, whiskers
from pipeline.visual.svg import around

_WIDEST = 4.0  # times the spread of all means: an interval of two seeds would hide everything else


@dataclass(frozen=True)
class Chart:
    """A drawing below a heading."""

    title: str
    drawing: str


@dataclass(frozen=True)
class TaskGain:
    """Relative gain of a run in one task, in percent, positive is better: mean over seeds, interval, single seeds."""

    mean: float
    low: float | None
    high: float | None
    seeds: list[float]


class _Resampled:
    """Scores of single networks in the same resamples of the images, each worked out once."""

    def __init__(self, content: Content):
        self._content = content
        self._weights = draw(len(content.scored))
        self._found: dict[tuple[str, int, str], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, run: str, place: int, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores by resample (R,), and without each image (N,); place: of the seed."""
        key = run, place, task
        if key not in self._found:
            kept = self._content.statistics[run][place]
            of, formula = kept.tasks[task], kept.formulas[task]
            self._found[key] = resampled_scores(self._weights, of, formula), scores_without_each(of, formula)
        return self._found[key]


def task_gains(content: Content) -> dict[str, dict[str, TaskGain]]:
    """{run: {task: gain}} where there is a baseline, as `compare` works out those of Δm, but of one task alone."""
    resampled, found = _Resampled(content), {}
    for run in content.delta.delta_m:
        if run in content.results:
            tasks = content.baselines(run)
            found[run] = {t: each for t, of in tasks.items() if (each := _task_gain(content, resampled, run, t, of))}
    return found


def _task_gain(content: Content, resampled: _Resampled, run: str, task: str, baseline: str) -> TaskGain | None:
    by_seed = {row.seed: row.delta for row in content.delta.per_seed if (row.run, row.task) == (run, task)}
    values = [by_seed.get(seed) for seed in content.params.seeds]
    known = [value for value in values if value is not None]
    mean = content.delta.scores[run][task].delta
    if mean is None or len(known) < len(values):
        return None
    signs = {task: get_task(task).higher_is_better}
    both = []
    for place in range(len(values)):
        pairs = zip(resampled(run, place, task), resampled(baseline, place, task), strict=True)
        both.append([resampled_performance({task: own}, {task: other}, signs) for own, other in pairs])
    statistics = content.statistics[run][0].tasks[task]
    counts = np.any([of.reshape(len(content.scored), -1).any(1) for of in statistics.values()], axis=0)
    drawn, without = (np.stack([pair[i] for pair in both]) for i in (0, 1))
    estimate = interval(known, drawn, without[:, counts], int(counts.sum()))
    return TaskGain(mean, estimate.low if estimate else None, estimate.high if estimate else None, known)


def gain_charts(content: Content) -> list[Chart]:
    """Δm first, then a chart a task; all have one scale."""
    gains, delta = task_gains(content), content.delta
    if not gains:
        return []
    styles = {name: i for i, name in enumerate(content.results)}
    charts: dict[str, list[Whisker]] = {DELTA_M: []}
    for run, tasks in gains.items():
        gain = delta.delta_m[run]
        seeds = [row.delta for row in delta.per_seed if (row.run, row.task) == (run, DELTA_M) and row.delta is not None]
        low, high = (gain.interval.low, gain.interval.high) if gain.interval else (None, None)
        text = bounds(gain, sign=True).replace("-", "−")
        charts[DELTA_M].append(Whisker(run, styles[run], gain.mean, low, high, seeds, text))
        for task, of in tasks.items():
            text = number(of.mean, sign=True)
            if of.low is not None and of.high is not None:
                text = f"{text} ({of.low:+.2f} to {of.high:+.2f})"
            row = Whisker(run, styles[run], of.mean, of.low, of.high, of.seeds, text.replace("-", "−"))
            charts.setdefault(task, []).append(row)
    scale = _scale([row for rows in charts.values() for row in rows])
    order = [DELTA_M, *(task for task in content.tasks if task in charts)]
    return [Chart(_title(name), _chart(name, charts[name], scale)) for name in order]


def _title(name: str) -> str:
    return "Δm" if name == DELTA_M else get_task(name).title


def _chart(name: str, rows: list[Whisker], scale: tuple[float, float]) -> str:
    said = "; ".join(f"{row.run} {row.text}" for row in rows)
    return whiskers(
        f"{_title(name)}, gain over single task in percent: {said}", rows, scale, "gain over single task, %"
    )


def _scale(rows: list[Whisker]) -> tuple[float, float]:
    """All means, seeds and 0, and what of the intervals is not far beyond."""
    inner = around([0.0, *(value for row in rows for value in (row.mean, *row.seeds))], 0.1, 0.5)
    room = (_WIDEST - 1) / 2 * (inner[1] - inner[0])
    ends = [end for row in rows for end in (row.low, row.high) if end is not None]
    outer = around([*inner, *ends], 0.02)
    return max(outer[0], inner[0] - room), min(outer[1], inner[1] + room)
