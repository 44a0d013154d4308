"""The report's section on intervals: how far scores and Δm can be believed, and what it would take to know more."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.cells import bounds, shares, table
from pipeline.results.comparison import Comparison

_ABOUT = (
    "95 % intervals of means over seeds. They cover images that could have been others and, with several seeds, these "
    "too; with one seed they cover images alone. Images are resampled with replacement, alike for a run, its baselines "
    "and all seeds, and a score that is pooled over the split is resampled as one. Shares: what is owed to the choice "
    "of images and to that of seeds in the square of Δm's standard error."
)


def certainty_section(tasks: Sequence[str], columns: Sequence[str], delta: Comparison) -> str:
    """Sentences, and a table of all means with their intervals; columns: the heads of the tasks' columns."""
    rows = []
    for run, scores in delta.scores.items():
        gain = delta.delta_m.get(run)
        cells = [bounds(scores[task]) if task in scores else "" for task in tasks]
        own = [bounds(gain, sign=True), *shares(gain.interval)] if gain else [""] * 4
        rows.append([f"`{run}`", *cells, *own])
    head = ["run", *columns, "Δm %", "standard error", "of it images", "seeds"]
    text = "## How sure this is\n\n" + "".join(f"- {sentence}\n" for sentence in delta.conclusions)
    return f"{text}\n{table(head, rows)}\n\n{_ABOUT}"
