"""Charts of the report as SVG: means with whiskers, lines by epoch or step, and the gains of single images in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.visual.svg import Axis, around, dash, drawing, element, label, mark, path, run_class, shown, title

_BARS = 300  # more are narrower than a line
_WIDTH = 360.0


@dataclass(frozen=True)
class Whisker:
    """A mean of a run with its interval, which may be unknown, and the values of single seeds.

    style: of the run, its place among all runs. text: the value in words.
    """

    run: str
    style: int
    mean: float
    low: float | None
    high: float | None
    seeds: Sequence[float]
    text: str


@dataclass(frozen=True)
class Line:
    """A run's curve; band: low and high by point, or None."""

    run: str
    style: int
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


def whiskers(about: str, rows: Sequence[Whisker], bounds: tuple[float, float], unit: str) -> str:
    """A row a run: a mark at the mean, a whisker over the interval, a tick a seed; a line at 0.

    bounds: least and greatest value of the axis, the same for charts that stand side by side; what lies outside is
    drawn at the edge.
    """
    row_height, top = 44.0, 6.0
    height = top + row_height * len(rows) + 36
    axis = Axis(*bounds, 14.0, _WIDTH - 14)
    bottom = top + row_height * len(rows)
    parts = []
    for tick in axis.ticks():
        x = axis(tick)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="zero" if tick == 0 else "grid"))
        parts.append(label(shown(tick), x, bottom + 15))
    parts.append(label(unit, _WIDTH / 2, bottom + 31))
    for i, row in enumerate(rows):
        y = top + row_height * i + 29
        parts.append(label(row.run, axis.start, y - 14, "start", "name"))
        parts.append(label(row.text, axis.end, y - 14, "end", "value"))
        style = f"line {run_class(row.style)}"
        if row.low is not None and row.high is not None:
            low, high = axis(row.low), axis(row.high)
            parts.append(element("line", x1=low, x2=high, y1=y, y2=y, class_=style))
            ends = ((low, row.low >= axis.low), (high, row.high <= axis.high))
            parts += [element("line", x1=x, x2=x, y1=y - 4, y2=y + 4, class_=style) for x, inside in ends if inside]
        parts += [
            element("line", x1=axis(seed), x2=axis(seed), y1=y + 5, y2=y + 10, class_=f"seed {run_class(row.style)}")
            for seed in row.seeds
        ]
        parts.append(mark(row.style, axis(row.mean), y, f"{row.run}: {row.text}", 4.4))
    return drawing(_WIDTH, height, about, *parts)


def curves(about: str, lines: Sequence[Line], x_title: str, zero: bool = False, whole: bool = True) -> str:
    """A line a run, its band shaded. zero: a line at 0, and a scale that bands of few seeds don't blow up.

    whole: x counts something.
    """
    height, left, bottom = 220.0, 46.0, 182.0
    values = [y for line in lines for y in line.y]
    low, high = around([*values, 0.0] if zero else values, 0.5 if zero else 0.06)
    y_axis = Axis(low, high, bottom, 10.0)
    x_values = [x for line in lines for x in line.x]
    first, last = min(x_values, default=0.0), max(x_values, default=1.0)
    x_axis = Axis(first, last if last > first else first + 1, left + 8, _WIDTH - 14)
    parts = []
    for tick in y_axis.ticks():
        y = y_axis(tick)
        style = "zero" if zero and tick == 0 else "grid"
        parts += [element("line", x1=left, x2=_WIDTH - 6, y1=y, y2=y, class_=style)]
        parts.append(label(shown(tick), left - 6, y + 4, "end"))
    for tick in x_axis.ticks(6):
        if not whole or tick == int(tick):
            parts.append(label(shown(tick), x_axis(tick), bottom + 17))
    parts.append(label(x_title, (left + _WIDTH) / 2, bottom + 34))
    for line in lines:
        if line.band is not None:
            lower, upper = ([(x_axis(x), y_axis(y)) for x, y in zip(line.x, of, strict=True)] for of in line.band)
            parts.append(path([*lower, *reversed(upper)], close=True, class_=f"band {run_class(line.style)}"))
    for line in lines:
        points = [(x_axis(x), y_axis(y)) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        if not points:
            continue
        drawn = path(points, class_=f"line {run_class(line.style)}", stroke_dasharray=dash(line.style))
        parts.append(element("g", title(line.run), drawn))
        if len(points) < 16:
            parts += [
                mark(line.style, x_axis(x), y_axis(y), f"{line.run}, {x_title} {shown(x)}: {y:.4g}", 3.2)
                for x, y in zip(line.x, line.y, strict=True)
                if math.isfinite(y)
            ]
    return drawing(_WIDTH, height, about, *parts)


def in_order(about: str, values: Sequence[float]) -> str:
    """A bar a value, from the greatest to the least; colours tell gains, above 0, from losses, below.

    Of more than `_BARS` values it draws so many, evenly spaced in that order, the greatest and the least among them.
    """
    height, left, top, bottom = 150.0, 46.0, 8.0, 138.0
    ordered = sorted(values, reverse=True)
    if len(ordered) > _BARS:
        ordered = [ordered[round(i * (len(ordered) - 1) / (_BARS - 1))] for i in range(_BARS)]
    low, high = around([*ordered, 0.0], 0.05)
    y_axis = Axis(low, high, bottom, top)
    parts = []
    for tick in y_axis.ticks(4):
        y = y_axis(tick)
        parts.append(element("line", x1=left, x2=_WIDTH - 6, y1=y, y2=y, class_="zero" if tick == 0 else "grid"))
        parts.append(label(shown(tick), left - 6, y + 4, "end"))
    width = (_WIDTH - 10 - left) / max(len(ordered), 1)
    gains = [value for value in ordered if value > 0]
    losses = [value for value in ordered if value < 0]
    for kind, some, begin in (("gain", gains, 0), ("loss", losses, len(ordered) - len(losses))):
        if some:
            steps = [(left + (begin + i + side) * width, y_axis(v)) for i, v in enumerate(some) for side in (0, 1)]
            ends = [(steps[0][0], y_axis(0)), *steps, (steps[-1][0], y_axis(0))]
            parts.append(path(ends, close=True, class_=kind))
    return drawing(_WIDTH, height, about, *parts)


def interval_bar(mean: float, low: float | None, high: float | None, bounds: tuple[float, float], style: int) -> str:
    """A small one for a cell of a table, on a scale that a whole column shares: hidden from screen readers."""
    axis, y = Axis(*bounds, 5.0, 95.0), 7.0
    parts = [element("line", x1=5, x2=95, y1=y, y2=y, class_="grid")]
    if low is not None and high is not None:
        parts.append(element("line", x1=axis(low), x2=axis(high), y1=y, y2=y, class_=f"thick {run_class(style)}"))
    parts.append(mark(style, axis(mean), y, None, 3.0))
    return element("svg", *parts, viewBox="0 0 100 14", class_="interval", aria_hidden="true")


def key(style: int) -> str:
    """The line and mark of a run, for a legend; hidden from screen readers, since the name stands beside it."""
    line = element("line", x1=1, x2=27, y1=7, y2=7, class_=f"line {run_class(style)}", stroke_dasharray=dash(style))
    return element("svg", line, mark(style, 14, 7, None, 3.6), viewBox="0 0 28 14", class_="key", aria_hidden="true")
