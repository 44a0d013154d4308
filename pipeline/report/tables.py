"""Tables that both writers of the report show; cells are Markdown in a line, see texts.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.comparison import published
from pipeline.data.store import Store
from pipeline.evaluation.scoring import finite_or_none
from pipeline.report.cells import bounds, count, number, shares, spread
from pipeline.report.content import Content
from pipeline.report.texts import TRIVIAL, column, label
from pipeline.results.comparison import RunFacts
from pipeline.tasks import get_task


@dataclass(frozen=True)
class Table:
    """The first column is text, the rest numbers, but for those of `texts`, by their place."""

    head: list[str]
    rows: list[list[str]]
    texts: tuple[int, ...] = ()


@dataclass(frozen=True)
class TaskMetrics:
    """Every metric of a task by run: its protocol, the metrics of the whole, and those by class, if any."""

    title: str
    protocol: str
    plain: Table
    classes: Table | None


def label_counts(content: Content) -> Table | None:
    """How many images of each split have a label of each task; None where all have one."""
    stores: dict[str, Store] = {"train": content.train, content.params.evaluation.split: content.scored}
    counts = {split: store.label_counts() for split, store in stores.items()}
    if all(count == len(stores[split]) for split, of in counts.items() for count in of.values()):
        return None
    head = ["images with a label", *(f"{split} (of {len(store)})" for split, store in stores.items())]
    return Table(head, [[get_task(task).title, *(str(of[task]) for of in counts.values())] for task in content.tasks])


def score_table(content: Content) -> Table:
    """Of each run its scores, Δm and what an image costs it."""
    tasks, delta, trivial = content.tasks, content.delta, finite_or_none(content.trivial)
    head = ["run", *map(column, tasks), "Δm %", "parameters [M]", "GMAC", "activations [MiB]"]
    rows = [[TRIVIAL, *(number(trivial[task][get_task(task).primary_metric]) for task in tasks), *[""] * 4]]
    for name in content.runs:
        scores = delta.scores[name]
        cells = [spread(scores[task]) if task in scores else "" for task in tasks]
        gain = spread(delta.delta_m[name], sign=True) if name in delta.delta_m else ""
        rows.append([label(content.params, name), *cells, gain, *cost(delta.runs[name])])
    return Table(head, rows)


def cost(*networks: RunFacts) -> tuple[str, str, str]:
    """Parameters in millions, GMAC, activations in MiB, of so many networks together."""
    units = {"parameters": (1e6, 2), "macs": (1e9, 2), "activation_bytes": (2**20, 1)}
    parameters, macs, activations = (
        f"{sum(getattr(each, name) for each in networks) / unit:.{digits}f}" for name, (unit, digits) in units.items()
    )
    return parameters, macs, activations


def gain_table(content: Content) -> Table | None:
    """Relative gains by task, and Δm; None where no run has one."""
    delta = content.delta
    rows = []
    for run, gain in delta.delta_m.items():
        scores = delta.scores[run]
        cells = [number(scores[t].delta, sign=True) if t in scores else "" for t in content.tasks]
        rows.append([f"`{run}`", *cells, f"**{spread(gain, sign=True)}**"])
    return Table(["run", *(f"{get_task(task).title} %" for task in content.tasks), "Δm %"], rows) if rows else None


def certainty_table(content: Content) -> Table:
    """All means with their intervals, and what the error of Δm is owed to."""
    rows = []
    for run, scores in content.delta.scores.items():
        gain = content.delta.delta_m.get(run)
        cells = [bounds(scores[task]) if task in scores else "" for task in content.tasks]
        own = [bounds(gain, sign=True), *shares(gain.interval)] if gain else [""] * 4
        rows.append([f"`{run}`", *cells, *own])
    return Table(["run", *map(column, content.tasks), "Δm %", "standard error", "of it images", "seeds"], rows)


def published_table(content: Content) -> Table | None:
    """Published rows beside ours; None for a dataset that has none."""
    params, tasks, delta, info = content.params, content.tasks, content.delta, content.info
    if info.dataset not in published.SETTINGS:
        return None
    single = content.trained_baselines
    groups = {"single task": single} if single else {}
    groups |= {label(params, name): [name] for name in params.all_runs if name not in single}
    rows = []
    for title, names in groups.items():
        scores = {task: entry for name in names for task, entry in delta.scores[name].items()}
        cells = [spread(scores[task]) if task in scores else "" for task in tasks]
        gain = delta.delta_m.get(names[0])
        verdict = published.verdict([params.run(name) for name in names], params.evaluation, info)
        rows.append([title, *cells, spread(gain, sign=True) if gain else "", "this report", verdict])
    setting = published.SETTINGS[info.dataset]
    for row in setting.rows:
        cells = [number(row.scores[task]) if task in row.scores else "" for task in tasks]
        published_gain = "" if row.delta_m is None else number(row.delta_m, sign=True)
        rows.append([f"{row.method} ({row.backbone})", *cells, published_gain, row.source, row.verdict(setting)])
    head = ["method", *(column(task) for task in tasks), "Δm %", "source", "comparable"]
    return Table(head, rows, texts=(len(head) - 2, len(head) - 1))


def published_about() -> str:
    """What a reader of published rows must know."""
    return (
        "Rows marked yes have the published setting in common: data, backbone, ImageNet weights, and the recipe that "
        "was published for the network. Every Δm is against its own authors' baselines, so it is never comparable "
        "between sources. The paper's own tables could not be obtained."
    )


def all_metrics(content: Content) -> list[TaskMetrics]:
    """For each task every metric by run."""
    results = content.results
    protocol = {task: text for seeds in results.values() for task, text in seeds[0].protocol.items()}
    found = []
    for task in content.tasks:
        columns: dict[str, Sequence[Mapping[str, float | None]]] = {TRIVIAL: [content.trivial[task]]}
        scored = {run: seeds for run, seeds in results.items() if task in seeds[0].tasks}
        columns |= {f"`{run}`": [each.tasks[task] for each in seeds] for run, seeds in scored.items()}
        names = dict.fromkeys(name for seeds in columns.values() for each in seeds for name in each)
        plain = [name for name in names if "/" not in name]
        classes = [name for name in names if "/" in name]  # one that is in no label may be predicted, and counts
        by_class = _metric_table(columns, classes) if classes else None
        found.append(TaskMetrics(get_task(task).title, protocol[task], _metric_table(columns, plain), by_class))
    return found


def _metric_table(columns: Mapping[str, Sequence[Mapping[str, float | None]]], metrics: list[str]) -> Table:
    rows = []
    for metric in metrics:
        values = [[seed.get(metric) for seed in seeds] for seeds in columns.values()]
        show = count if metric in ("images", "valid_pixels") else number
        rows.append([metric, *(show(mean(each)) for each in values)])
    return Table(["metric", *columns], rows)


def mean(values: Sequence[float | None]) -> float | None:
    """Over seeds; None where one of them has none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
