"""The comparison as files and as text: delta.json, delta.csv and summary.json in reports, and the terminal's table."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core import names, paths
from pipeline.results.comparison import DELTA_M, Comparison, Gain, Interval, Score

FIELDS = (
    "run",
    "seed",
    "task",
    "metric",
    "higher_is_better",
    "score",
    "baseline_run",
    "baseline",
    "delta",
    "low",
    "high",
)


def write_delta(delta: Comparison, json_path: Path = paths.DELTA_JSON, csv_path: Path = paths.DELTA_CSV) -> None:
    """Write the comparison as JSON, and as CSV: a line per run, seed and task, then means and deviations."""
    delta.write(json_path)
    with paths.atomic(csv_path) as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, delta.per_seed))
        writer.writerows(_summary_rows(delta))


def write_summary(delta: Comparison, path: Path = paths.SUMMARY_JSON) -> None:
    """Write what `dvc metrics` and `dvc exp show` show: of each run its primary scores, Δm and Δm's interval."""
    summary: dict[str, dict[str, float | None]] = {}
    for run, tasks in delta.scores.items():
        summary[run] = {f"{task}_{entry.metric}": entry.mean for task, entry in tasks.items()}
        if gain := delta.delta_m.get(run):
            summary[run] |= {DELTA_M: gain.mean} | {f"{DELTA_M}_{k}": v for k, v in _bounds(gain.interval).items()}
    paths.write_json(path, summary)


def _summary_rows(delta: Comparison) -> Iterator[dict[str, Any]]:
    for run, tasks in delta.scores.items():
        for statistic in ("mean", "std"):
            for task, entry in tasks.items():
                row: dict[str, Any] = {"run": run, "seed": statistic, "task": task, "metric": entry.metric}
                row |= {"higher_is_better": entry.higher_is_better, "score": getattr(entry, statistic)}
                if statistic == "mean":
                    row |= _bounds(entry.interval)
                    row |= {key: getattr(entry, key) for key in ("baseline_run", "baseline", "delta")}
                yield row
            if run in delta.delta_m:
                gain = delta.delta_m[run]
                row = {"run": run, "seed": statistic, "task": DELTA_M, "delta": getattr(gain, statistic)}
                yield row | (_bounds(gain.interval) if statistic == "mean" else {})


def _bounds(interval: Interval | None) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high} if interval else {}


def format_table(delta: Comparison) -> str:
    """The comparison as aligned text: one line a run (single-task runs of a backbone share one), Δm last.

    Below it what can be said of each Δm, and the caveats.
    """
    lines = _table_lines(delta)
    columns = _score_columns(delta, [entries for _, entries, _ in lines])
    columns = [["", *(label for label, _, _ in lines)], *columns]
    columns.append(["Δm % ↑", *(_gain_cell(gain) for _, _, gain in lines)])
    widths = [max(map(len, column)) for column in columns]
    rows = [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    rows.insert(1, "-" * max(map(len, rows)))
    return "\n".join([*rows, *delta.conclusions, *(f"* {caveat}" for caveat in delta.caveats)])


Line = tuple[str, dict[str, Score], Gain | None]  # label, scores by task, Δm


def _table_lines(delta: Comparison) -> list[Line]:
    """Single-task runs first, gathered into one line as long as backbone and tasks allow it."""
    gathered: list[tuple[str, dict[str, Score]]] = []
    for run, facts in delta.runs.items():
        if facts.architecture != names.SINGLE_TASK:
            continue
        scores = delta.scores[run]
        for backbone, entries in gathered:
            if backbone == facts.backbone and not entries.keys() & scores.keys():
                entries |= scores
                break
        else:
            gathered.append((facts.backbone, dict(scores)))
    several = len({facts.backbone for facts in delta.runs.values()}) > 1
    lines: list[Line] = [
        (f"single task ({backbone})" if several else "single task", scores, None) for backbone, scores in gathered
    ]
    for run, facts in delta.runs.items():
        if facts.architecture != names.SINGLE_TASK:
            lines.append((run, delta.scores[run], delta.delta_m.get(run)))
    return lines


def _score_columns(delta: Comparison, lines: list[dict[str, Score]]) -> list[list[str]]:
    """Two columns a task, header first: its primary metric score, and its relative gain if anything has one."""
    columns = []
    for task in dict.fromkeys(task for scores in delta.scores.values() for task in scores):
        entries = [scores.get(task) for scores in lines]
        some = next(entry for entry in entries if entry)
        largest = max((abs(entry.mean) for entry in entries if entry and entry.mean is not None), default=0.0)
        digits = 2 if largest >= 10 else 4  # percentages and degrees against metres
        arrow = "↑" if some.higher_is_better else "↓"
        cells = [_score_cell(entry, digits) for entry in entries]
        columns.append([f"{task} {some.metric} {arrow}", *cells])
        gains = [None if entry is None else entry.delta for entry in entries]
        if any(gain is not None for gain in gains):
            columns.append(["Δ %", *("" if gain is None else f"{gain:+.2f}" for gain in gains)])
    return columns


def _score_cell(entry: Score | None, digits: int) -> str:
    if entry is None or entry.mean is None:
        return "undefined" if entry else "-"
    deviation = "" if entry.std is None else f" ±{entry.std:.{digits}f}"
    return f"{entry.mean:.{digits}f}{deviation}"


def _gain_cell(gain: Gain | None) -> str:
    if gain is None:
        return "-"
    deviation = "" if gain.std is None else f" ±{gain.std:.2f}"
    return f"{gain.mean:+.2f}{deviation}"
