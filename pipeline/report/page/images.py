"""Which images a run of several tasks does better on than its baselines, and which it does worse on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.metrics.resampling import scores_of_each
from pipeline.report.cells import difference, number
from pipeline.report.content import Content
from pipeline.tasks import get_task
from pipeline.visual.charts import in_order
from pipeline.visual.embedded import data_uri

_MOST = 10  # images at either end
_THUMBNAIL = 72  # pixels of the longer side


@dataclass(frozen=True)
class ImageGain:
    """One image: its place in the split, its id, the scores of baseline and run, and what the latter gained."""

    place: int
    id: str
    baseline: str
    own: str
    gain: str


@dataclass(frozen=True)
class TaskImages:
    """Of one run and task. unit: of scores and gains. summary: how many images gained, and what the median one did."""

    run: str
    style: int
    title: str
    baseline: str
    metric: str
    unit: str
    summary: str
    drawing: str
    gains: list[ImageGain]
    losses: list[ImageGain]


@dataclass(frozen=True)
class Images:
    """All of the section; photographs: by place in the split, those that some table shows."""

    tasks: list[TaskImages]
    photographs: dict[int, str]


def image_gains(content: Content) -> Images:
    """For each run with a Δm and each of its tasks: the score of each image less its baseline's, mean over seeds."""
    styles = {name: i for i, name in enumerate(content.results)}
    tasks = [
        found
        for run in content.delta.delta_m
        if run in content.results
        for task, baseline in content.baselines(run).items()
        if (found := _task_images(content, run, styles[run], task, baseline))
    ]
    places = sorted({image.place for of in tasks for image in (*of.gains, *of.losses)})
    return Images(tasks, {i: data_uri(content.scored[i].image, _THUMBNAIL, photograph=True) for i in places})


def mean_of_each(content: Content, run: str, task: str) -> np.ndarray:
    """The score (N,) of each image alone, mean over seeds; NaN where it is not defined for all of them."""
    seeds = [scores_of_each(kept.tasks[task], kept.formulas[task]) for kept in content.statistics[run]]
    return np.mean(seeds, axis=0)


def _task_images(content: Content, run: str, style: int, task: str, baseline: str) -> TaskImages | None:
    spec = get_task(task)
    own, other = (mean_of_each(content, name, task) for name in (run, baseline))
    gains = own - other if spec.higher_is_better else other - own
    known = np.flatnonzero(np.isfinite(gains))
    if not known.size:
        return None
    order = known[np.argsort(-gains[known], kind="stable")]

    def rows(places: np.ndarray) -> list[ImageGain]:
        return [
            ImageGain(int(i), content.scored.ids[i], number(other[i]), number(own[i]), difference(gains[i], own[i]))
            for i in places
        ]

    better, worse = int((gains[known] > 0).sum()), int((gains[known] < 0).sum())
    unit = spec.unit or spec.primary_metric
    unit = "points" if unit == "%" else unit
    summary = (
        f"better on {better} of {known.size} images, worse on {worse}; the median image "
        f"{difference(float(np.median(gains[known])), float(np.median(own[known])))}"
    )
    about = f"{run}, {spec.title.lower()}, gain of each image in {unit}: {summary}"
    return TaskImages(
        run=run,
        style=style,
        title=spec.title,
        baseline=baseline,
        metric=spec.primary_metric,
        unit=unit,
        summary=summary,
        drawing=in_order(about, gains[known].tolist()),
        gains=rows(order[:_MOST][gains[order[:_MOST]] > 0]),
        losses=rows(order[::-1][:_MOST][gains[order[::-1][:_MOST]] < 0]),
    )
