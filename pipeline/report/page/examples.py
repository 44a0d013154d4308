"""Panels of the best run: images that a rule chose, and some that it shares with its baselines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.sample import Sample
from pipeline.evaluation.examples import RANKS, chosen_of
from pipeline.evaluation.panels import painting_contexts, panel_indices
from pipeline.metrics.resampling import scores_of_each
from pipeline.report.cells import number
from pipeline.report.content import Content
from pipeline.tasks import get_task
from pipeline.tasks.spec import TaskContext
from pipeline.visual.embedded import data_uri
from pipeline.visual.error_maps import ERROR_MAPS, paint_errors, scale_colours
from pipeline.visual.paint import PAINTERS, paint, paint_classes, palette

_LONGEST = 320  # pixels of a picture's longer side


@dataclass(frozen=True)
class Picture:
    """caption: below it. alt: what a person who can't see it is to know."""

    caption: str
    alt: str
    source: str


@dataclass(frozen=True)
class Panel:
    """Pictures of one image in a row; head: its rank, id and score."""

    head: str
    pictures: list[Picture]


@dataclass(frozen=True)
class TaskPanels:
    """Of one task; scale, bright: colours of its error maps, from right to wrong, and what the last one means.

    classes: name and colour of those that some label or prediction shows; empty where colours are no classes.
    """

    title: str
    classes: list[tuple[str, str]]
    scale: list[str]
    bright: str
    panels: list[Panel]


Predicted = list[tuple[str, Sample, dict[str, np.ndarray]]]
"""Of each image a head, the sample, and by run the prediction of one task."""


def chosen_panels(content: Content) -> list[TaskPanels]:
    """Of each task of the best run, first seed: the worst, the median and the best image with their error maps."""
    run = content.flagship
    if not content.params.evaluation.panels:
        return []
    found = []
    for task, ranks in chosen_of(content.statistics[run][0]).items():
        shown: Predicted = []
        for rank in (rank for rank in RANKS if rank in ranks):
            sample = content.scored[ranks[rank]]
            head = f"{rank}: `{sample.id}`, {_score_of(content, run, task, ranks[rank])}"
            shown.append((head, sample, {run: content.predictions[run][f"{sample.id}/{task}"]}))
        if shown:
            found.append(_panels(content, task, shown))
    return found


def shared_panels(content: Content) -> list[TaskPanels]:
    """Of each task with a baseline, first seed: the evenly spaced images, the best run's beside its baseline's."""
    run = content.flagship
    places = panel_indices(len(content.scored), content.params.evaluation.panels)
    found = []
    for task, baseline in content.baselines(run).items() if places else ():
        shown: Predicted = []
        for i in places:
            sample = content.scored[i]
            said = ", ".join(f"`{name}` {_score_of(content, name, task, i)}" for name in (baseline, run))
            predictions = {name: content.predictions[name][f"{sample.id}/{task}"] for name in (baseline, run)}
            shown.append((f"`{sample.id}`: {said}", sample, predictions))
        found.append(_panels(content, task, shown))
    return found


def _panels(content: Content, task: str, shown: Predicted) -> TaskPanels:
    context = painting_contexts(content.info, [task], [sample for _, sample, _ in shown])[task]
    return TaskPanels(
        title=get_task(task).title,
        classes=_classes(task, context, shown),
        scale=scale_colours(task),
        bright=ERROR_MAPS[task].shown,
        panels=[Panel(head, _pictures(sample, task, predictions, context)) for head, sample, predictions in shown],
    )


def _classes(task: str, context: TaskContext, shown: Predicted) -> list[tuple[str, str]]:
    if context.classes is None:
        return []
    maps = [sample.labels[task].value[sample.labels[task].valid] for _, sample, _ in shown]
    maps += [prediction.ravel() for _, _, predictions in shown for prediction in predictions.values()]
    colours = palette(len(context.classes)).tolist()
    occur = np.unique(np.concatenate(maps)).tolist()
    return [(context.classes[i], "#{:02x}{:02x}{:02x}".format(*colours[i])) for i in occur]


def _score_of(content: Content, run: str, task: str, place: int) -> str:
    kept = content.statistics[run][0]
    return _score(task, scores_of_each(kept.tasks[task], kept.formulas[task])[place])


def _score(task: str, value: float) -> str:
    spec = get_task(task)
    return f"{spec.primary_metric} {number(value)} {spec.unit}".rstrip()


def _pictures(sample: Sample, task: str, predictions: dict[str, np.ndarray], context: TaskContext) -> list[Picture]:
    """Image, label, and of each run the prediction and where it is wrong."""
    label, what = sample.labels[task], get_task(task).title.lower()
    height, width = sample.image.shape[:2]
    about, codes = f"sample {sample.id}", PAINTERS[task] is paint_classes
    pictures = [
        Picture("image", f"Image of {about}, {width} by {height} pixels", data_uri(sample.image, _LONGEST, True)),
        _painted("label", f"Label of {what}, {about}", paint(task, label.value, label.valid, context), codes),
    ]
    everywhere = np.ones_like(label.valid)
    for run, prediction in predictions.items():
        painted = paint(task, prediction, everywhere, context)
        pictures.append(_painted(f"{run}", f"Prediction of {what} by {run}, {about}", painted, codes))
        wrong = paint_errors(task, prediction, label)
        pictures.append(
            _painted("its errors", f"Where {run} is wrong in {what}, {about}: bright is wrong", wrong, codes=False)
        )
    return pictures


def _painted(caption: str, alt: str, picture: np.ndarray, codes: bool) -> Picture:
    return Picture(caption, alt, data_uri(picture, _LONGEST, codes=codes))
