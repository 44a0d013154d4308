"""Scores of single classes, and which class is taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.report.cells import MISSING
from pipeline.report.content import Content
from pipeline.report.page.scores import best_of
from pipeline.report.tables import mean
from pipeline.tasks import get_task
from pipeline.visual.svg import run_class

_MOST = 48  # classes of a matrix that one can read
_PAIRS = 12


@dataclass(frozen=True)
class ClassCell:
    """IoU of a class: its number, the length of its bar in percent, and whether it is the best of its row."""

    text: str
    bar: float
    best: bool
    style: str


@dataclass(frozen=True)
class ClassTable:
    """share: of the labelled pixels, in percent. absent: classes that are in no label and no prediction."""

    runs: list[str]
    rows: list[tuple[str, str, list[ClassCell]]]
    absent: list[str]


@dataclass(frozen=True)
class Confusion:
    """Labels by predictions in percent of a label's pixels, seeds together.

    rows: class, and of each prediction its percentage; empty where there are too many classes to read. pairs: label,
    prediction, percentage: the most frequent errors.
    """

    classes: tuple[str, ...]
    rows: list[tuple[str, list[float | None]]]
    pairs: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Classes:
    """What is to be said of a task that has classes. run: whose confusion it is."""

    title: str
    iou: ClassTable
    run: str | None
    confusion: Confusion | None


def class_sections(content: Content) -> list[Classes]:
    """One for each task that is scored by class."""
    found = []
    for task in content.tasks:
        if task not in content.info.classes or not any(task in of[0] for of in content.confusions.values()):
            continue
        runs = [name for name in content.runs if task in content.confusions[name][0]]
        shown = content.flagship if content.flagship in runs else runs[0]
        found.append(Classes(get_task(task).title, _iou(content, task, runs), shown, _confusion(content, task, shown)))
    return found


def _iou(content: Content, task: str, runs: list[str]) -> ClassTable:
    labelled = content.statistics[runs[0]][0].tasks[task]["labelled"].sum(0)
    confusion = np.sum([seed[task] for run in runs for seed in content.confusions[run]], axis=0)
    occurs = confusion.sum(0) + confusion.sum(1) > 0
    styles = {name: i for i, name in enumerate(content.results)}
    rows, absent = [], []
    for i, name in enumerate(content.info.classes[task]):
        scores = {run: mean([seed.tasks[task].get(f"IoU/{name}") for seed in content.results[run]]) for run in runs}
        known = {run: score for run, score in scores.items() if score is not None}
        if not occurs[i]:
            absent.append(name)
            continue
        best = best_of(known, higher_is_better=True)
        cells = [
            ClassCell(MISSING if score is None else f"{score:.2f}", score or 0.0, run in best, run_class(styles[run]))
            for run, score in scores.items()
        ]
        rows.append((name, f"{100 * labelled[i] / max(labelled.sum(), 1):.1f}", cells))
    return ClassTable(runs, rows, absent)


def _confusion(content: Content, task: str, run: str) -> Confusion:
    """Of all seeds together; classes that occur neither as label nor as prediction are left out."""
    total = np.sum([seed[task] for seed in content.confusions[run]], axis=0)
    occurs = np.flatnonzero(total.sum(0) + total.sum(1))
    total = total[np.ix_(occurs, occurs)]
    names = tuple(content.info.classes[task][i] for i in occurs)
    pixels = total.sum(1)
    share = 100 * total / np.maximum(pixels, 1)[:, None]
    wrong = np.where(np.eye(len(names), dtype=bool), 0, share)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    places = [divmod(int(at), len(names)) for at in order]
    pairs = [(names[i], names[j], f"{wrong[i, j]:.1f}") for i, j in places if wrong[i, j] > 0]
    if len(names) > _MOST:
        return Confusion(names, [], pairs)
    rows: list[tuple[str, list[float | None]]] = [
        (name, [float(value) for value in row] if count else [None] * len(names))  # a label that no pixel has
        for name, row, count in zip(names, share, pixels, strict=True)
    ]
    return Confusion(names, rows, pairs)
