"""Numbers, tables and pictures of the report, as Markdown."""

from __future__ import annotations

import re
from urllib.parse import quote

import numpy as np

from pipeline.results.comparison import Gain, Interval, Score

MISSING = "–"


def count(value: float | None) -> str:
    """A whole number; a dash for what is not defined."""
    return MISSING if value is None else f"{value:,.0f}"


def number(value: float | None, sign: bool = False) -> str:
    """Three decimals below 10, two above; a dash for what is not defined."""
    if value is None or not np.isfinite(value):
        return MISSING
    digits = 3 if abs(value) < 10 and not sign else 2
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def difference(value: float, of: float) -> str:
    """How much better or worse, in as many decimals as the number `of` has; zero has no sign."""
    text = f"{value:+.{_digits(number(of))}f}"
    return text[1:] if float(text) == 0 else text


def spread(entry: Score | Gain, sign: bool = False) -> str:
    """A mean, ± its deviation over seeds where there are several."""
    text = number(entry.mean, sign)
    if entry.std is None:
        return text
    return f"{text} ± {entry.std:.{_digits(text)}f}"  # a deviation has as many digits as its mean


def bounds(entry: Score | Gain, sign: bool = False) -> str:
    """A mean and its interval, in as many digits."""
    text, between = number(entry.mean, sign), limits(entry, sign)
    return f"{text} ({between})" if between else text


def limits(entry: Score | Gain, sign: bool = False) -> str:
    """The interval of a mean, in as many digits; nothing where it has none."""
    if (interval := entry.interval) is None:
        return ""
    digits = _digits(number(entry.mean, sign))
    return " to ".join(f"{value:{'+' if sign else ''}.{digits}f}" for value in (interval.low, interval.high))


def shares(interval: Interval | None) -> list[str]:
    """Standard error, and what images and seeds have of its square, in per cent."""
    if interval is None:
        return [MISSING] * 3
    seeds = MISSING if interval.seed_share is None else f"{100 * interval.seed_share:.0f} %"
    return [number(interval.standard_error), f"{100 * interval.image_share:.0f} %", seeds]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text, and the rest numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(text: str, target: str) -> str:
    """A picture, whatever the ids of samples hold: blanks and brackets would end the link or its text."""
    escaped = re.sub(r"([\\\[\]<>&`])", r"\\\1", text)
    return f"![{escaped}]({quote(target, safe='/')})\n"


def _digits(text: str) -> int:
    return len(text.partition(".")[2])
