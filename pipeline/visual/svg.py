"""Drawings as SVG that stands in a page: elements, axes and marks. Everything is escaped; colours are the page's.

Text and lines take their colour from the page's style sheet (classes `axis`, `grid`, `run<i>`), so that a drawing
follows a dark page. The same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

RUN_STYLES = 7
"""Runs that have a colour of their own, in the order of `figures.PALETTE`; later ones repeat colours, dashed."""
DASHES = ("", "6 4", "2 3", "8 3 2 3")
_MARKS = ("circle", "square", "triangle", "diamond", "down", "bar", "cross")


def element(name: str, *children: str, **attributes: str | float | None) -> str:
    """An element. Children are markup. Attributes are escaped: `_` reads `-`, a last `_` is dropped, None left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(children)
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def label(text: str, x: float, y: float, anchor: str = "middle", class_: str = "axis") -> str:
    """Text at a point, which is its start, middle or end."""
    return element("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def title(text: str) -> str:
    """What a pointer shows, and a screen reader says, of the element that this stands in."""
    return element("title", escape(text))


def drawing(width: float, height: float, about: str, *children: str, class_: str = "chart") -> str:
    """The whole. about: what a person who can't see it is to know."""
    return element(
        "svg",
        title(about),
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        class_=class_,
        role="img",
        aria_label=about,
        style=f"max-width:{_value(width * 1.25)}px" if class_ == "chart" else None,
    )


def path(points: Iterable[tuple[float, float]], close: bool = False, **attributes: str | float | None) -> str:
    """A line through the points."""
    drawn = "L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return element("path", d=f"M{drawn}{'Z' if close else ''}", **attributes)


def run_class(index: int) -> str:
    """The class that gives a run its colour."""
    return f"run{index % RUN_STYLES}"


def dash(index: int) -> str | None:
    """The dashes of a run's line; None for a whole one."""
    return DASHES[index // RUN_STYLES % len(DASHES)] or None


def mark(index: int, x: float, y: float, about: str | None = None, size: float = 4.0) -> str:
    """A run's mark. Each run has a shape of its own, so colour is not the only difference."""
    s = size
    shapes: dict[str, Sequence[tuple[float, float]]] = {
        "square": ((-s, -s), (s, -s), (s, s), (-s, s)),
        "triangle": ((0, -1.2 * s), (1.15 * s, s), (-1.15 * s, s)),
        "diamond": ((0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)),
        "down": ((0, 1.2 * s), (1.15 * s, -s), (-1.15 * s, -s)),
        "bar": ((-0.5 * s, -1.4 * s), (0.5 * s, -1.4 * s), (0.5 * s, 1.4 * s), (-0.5 * s, 1.4 * s)),
        "cross": ((0, -0.6 * s), (s, -1.4 * s), (1.4 * s, -s), (0.6 * s, 0), (1.4 * s, s), (s, 1.4 * s), (0, 0.6 * s),
                  (-s, 1.4 * s), (-1.4 * s, s), (-0.6 * s, 0), (-1.4 * s, -s), (-s, -1.4 * s)),
    }  # fmt: skip
    inside = () if about is None else (title(about),)
    shape = _MARKS[index % len(_MARKS)]
    style = f"mark {run_class(index)}"
    if shape == "circle":
        return element("circle", *inside, cx=x, cy=y, r=1.15 * s, class_=style)
    drawn = "L".join(f"{_value(x + dx)} {_value(y + dy)}" for dx, dy in shapes[shape])
    return element("path", *inside, d=f"M{drawn}Z", class_=style)


@dataclass(frozen=True)
class Axis:
    """A linear map from low..high to the places start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; one outside is at the nearer end."""
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values, at most so many."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def around(values: Iterable[float], margin: float = 0.06, floor: float = 1e-9) -> tuple[float, float]:
    """The least and the greatest of the values that are finite, with some room; 0 to 1 where there is none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = max((high - low) * margin, abs(high) * 1e-3, floor)
    return low - room, high + room


def shown(value: float) -> str:
    """A tick's number, as short as it may be, with a minus sign for a hyphen."""
    return f"{value + 0.0:.6g}".replace("-", "−")


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(value, quote=True)
    return f"{round(value, 1) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"
