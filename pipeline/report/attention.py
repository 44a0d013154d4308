"""The report's section on cross attention: what one pixel took from where, and what that is worth to its prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.core import paths
from pipeline.core.names import TASKS
from pipeline.data.sample import Sample
from pipeline.evaluation.attention import Gathered, TaskAttention, middle_of, of_sample
from pipeline.evaluation.panels import panel_indices
from pipeline.report import cells, texts
from pipeline.report.content import Content
from pipeline.tasks import get_task
from pipeline.visual import figures
from pipeline.visual.attention_page import attention_page

OPEN = 2  # runs that are not folded away

Rows = Sequence[Mapping[str, Gathered]]
"""See `TaskAttention.rows`."""


def attention_section(content: Content) -> str:
    """Draw pages of attention into reports/figures; nothing where no run has cross attention."""
    runs = attention_by_run(content)
    if not runs:
        return ""
    sample = first_sample(content)
    parts = [f"## Attention\n\n{texts.ATTENTION}\n\n{texts.ATTENTION_WORTH}"]
    for i, (run, tasks) in enumerate(runs.items()):
        text = "\n\n".join(_of_task(sample, run, task, attention) for task, attention in tasks.items())
        folded = f"<details><summary><code>{run}</code></summary>\n\n{text}\n\n</details>"
        parts.append(f"### `{run}`\n\n{text}" if i < OPEN else folded)
    return "\n\n".join(parts)


def _of_task(sample: Sample, run: str, task: str, attention: TaskAttention) -> str:
    title, file = get_task(task).title, paths.FIGURES / f"attention-{run}-{task}.png"
    figures.save(attention_page(sample.image, middle_of(sample.image), attention.rows, f"{title} of {run}"), file)
    picture = cells.picture(f"Attention of {run}, {title.lower()}, sample {sample.id}", f"figures/{file.name}")
    return f"#### {title}\n\n{largest_text(attention.rows)}.\n\n{picture}\n{cells.table(*_changes(attention.rows))}"


def _changes(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: at each scale, how much the answer of each source changes the prediction."""
    names = sources_of(rows)
    numbers = [[percent(row[name].change) if name in row else "" for name in names] for row in rows]
    return ["at", *map(source_title, names)], [[scale_title(k), *row] for k, row in enumerate(numbers)]


def attention_by_run(content: Content) -> dict[str, dict[str, TaskAttention]]:
    """{run: {task: what the middle pixel of `first_sample` gathered}}, of the first seed, for runs that have any."""
    if not content.params.evaluation.panels:
        return {}
    id_ = first_sample(content).id
    found = {run: of_sample(arrays, id_) for run, arrays in content.predictions.items()}
    return {run: tasks for run, tasks in found.items() if tasks}


def first_sample(content: Content) -> Sample:
    """The first of the samples that are shown of all runs, `evaluation.panels` of them."""
    return content.scored[panel_indices(len(content.scored), content.params.evaluation.panels)[0]]


def sources_of(rows: Rows) -> list[str]:
    """All names of sources: tasks, then scales."""
    return list(dict.fromkeys(name for row in rows for name in row))


def source_title(source: str) -> str:
    """The name of a source for people, with the module that gathers from it."""
    return f"CTAM: {get_task(source).title}" if source in TASKS else f"CSAM: {source}"


def scale_title(scale: int) -> str:
    """scale: from the finest, 0."""
    return f"scale {scale + 1}" + (" (finest)" if scale == 0 else "")


def percent(change: float) -> str:
    """A fraction as a percentage of two decimals; a dash for one that is not finite, as of a prediction of 0."""
    if not np.isfinite(change):
        return cells.MISSING
    return "< 0.01 %" if 0 < change < 5e-5 else f"{100 * change:.2f} %"


def largest(rows: Rows) -> tuple[float, int, str]:
    """The largest change that an answer makes; at which scale, from 0, and from which source."""
    found = [(gathered.change, k, source) for k, row in enumerate(rows) for source, gathered in row.items()]
    return max(found, key=lambda each: each[0] if np.isfinite(each[0]) else -1.0)


def largest_text(rows: Rows) -> str:
    """The same in words."""
    change, scale, source = largest(rows)
    return f"The largest change is {percent(change)}: at scale {scale + 1}, {source_title(source)}"
