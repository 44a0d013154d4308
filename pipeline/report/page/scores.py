"""The table of scores with their intervals, the best of each column marked, and cost beside quality."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.evaluation.scoring import finite_or_none
from pipeline.report.cells import limits, number
from pipeline.report.content import Content
from pipeline.report.tables import cost
from pipeline.report.texts import TRIVIAL, column, label
from pipeline.results.comparison import Gain, Score
from pipeline.tasks import get_task
from pipeline.visual.charts import interval_bar
from pipeline.visual.svg import around


@dataclass(frozen=True)
class Cell:
    """A number, its interval in words and as a small drawing, where it has one, and whether it is its column's best."""

    text: str
    interval: str = ""
    drawing: str = ""
    best: bool = False


@dataclass(frozen=True)
class ScoreRow:
    """name: as Markdown in a line. style: of the run, by its place among all; None for what is no run."""

    name: str
    style: int | None
    cells: list[Cell]


@dataclass(frozen=True)
class ScoreTable:
    """Rows below a head; costs: how many columns, at the end, say what an image costs."""

    head: list[str]
    rows: list[ScoreRow]
    costs: int = 3


def score_table(content: Content) -> ScoreTable:
    """All runs, and below those of one task what all baselines of the best run cost together."""
    tasks, delta = content.tasks, content.delta
    trivial = finite_or_none(content.trivial)
    columns = [_cells(content, task) for task in tasks] + [_gain_cells(content)]
    constants = [Cell(number(trivial[task][get_task(task).primary_metric])) for task in tasks]
    rows = [ScoreRow(TRIVIAL, None, constants + [Cell("")] * 4)]
    styles = {name: i for i, name in enumerate(content.results)}
    costs = _costs(content)
    single = content.single_task_runs
    for name in content.runs:
        if name not in single and single:
            rows += _together(content, costs)
            single = []
        cells = [of.get(name, Cell("")) for of in columns]
        rows.append(ScoreRow(label(content.params, name), styles[name], cells + costs[name]))
    head = ["run", *map(column, tasks), "Δm % ↑", "parameters [M]", "GMAC", "activations [MiB]"]
    assert set(delta.runs) >= set(content.runs)
    return ScoreTable(head, rows)


def best_of(values: dict[str, float], higher_is_better: bool) -> set[str]:
    """The names of the best value: several that are equal, none where all are, or there is but one."""
    if len(set(values.values())) < 2:
        return set()
    best = max(values.values()) if higher_is_better else min(values.values())
    return {name for name, value in values.items() if value == best}


def _cells(content: Content, task: str) -> dict[str, Cell]:
    """Of each run that has the task."""
    found = {run: of[task] for run, of in content.delta.scores.items() if task in of and run in content.results}
    return _column(content, found, get_task(task).higher_is_better, sign=False)


def _gain_cells(content: Content) -> dict[str, Cell]:
    found = {run: gain for run, gain in content.delta.delta_m.items() if run in content.results}
    return _column(content, found, True, sign=True)


def _column(content: Content, entries: dict[str, Score] | dict[str, Gain], higher: bool, sign: bool) -> dict[str, Cell]:
    styles = {name: i for i, name in enumerate(content.results)}
    means = {run: entry.mean for run, entry in entries.items() if entry.mean is not None}
    best = best_of(means, higher)
    bounds = around(_ends(means.values(), entries.values()))
    cells = {}
    for run, entry in entries.items():
        low, high = (entry.interval.low, entry.interval.high) if entry.interval else (None, None)
        drawn = "" if run not in means else interval_bar(means[run], low, high, bounds, styles[run])
        cells[run] = Cell(number(entry.mean, sign), limits(entry, sign), drawn, run in best)
    return cells


def _ends(means: Iterable[float], entries: Iterable[Score | Gain]) -> list[float]:
    intervals = [entry.interval for entry in entries if entry.interval]
    return [*means, *(end for each in intervals for end in (each.low, each.high) if math.isfinite(end))]


def _costs(content: Content) -> dict[str, list[Cell]]:
    """Of each run; the lowest is marked among those of several tasks."""
    facts = content.delta.runs
    several = [name for name in content.runs if name not in content.single_task_runs]
    lowest = [
        best_of({name: float(getattr(facts[name], key)) for name in several}, False)
        for key in ("parameters", "macs", "activation_bytes")
    ]
    return {
        name: [Cell(text, best=name in of) for text, of in zip(cost(facts[name]), lowest, strict=True)]
        for name in content.runs
    }


def _together(content: Content, costs: dict[str, list[Cell]]) -> list[ScoreRow]:
    """What the baselines of the best run cost, which do what it does; nothing for fewer than two."""
    names = list(dict.fromkeys(content.baselines(content.flagship).values()))
    if len(names) < 2:
        return []
    together = [Cell(text) for text in cost(*(content.delta.runs[name] for name in names))]
    empty = [Cell("") for _ in range(len(content.tasks) + 1)]
    return [ScoreRow(f"{len(names)} single-task networks together", None, empty + together)]
