"""Sentences that both writers of the report say, as Markdown in a line: `code` and **strong**."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.core.names import FIXED
from pipeline.params.schema import Params
from pipeline.report.cells import number
from pipeline.report.content import Content
from pipeline.results.comparison import Comparison
from pipeline.tasks import get_task

Trivial = Mapping[str, Mapping[str, float | None]]
"""Scores of the trivial predictor, by task; None where a metric is not defined."""

TRIVIAL = "trivial predictor"
COST = (
    "GMAC (billion multiply-accumulates of a forward pass) and activations: one image at the input size; activations: "
    "float32, kept for the backward pass. How long a training took is a metric in MLflow: cost/training_seconds."
)
GAIN = (
    "Δm = 100/M · Σ s (m − b)/b over the M tasks of a run, positive is better, against baselines of the same "
    "backbone, data, schedule and seed."
)
CERTAINTY = (
    "95 % intervals of means over seeds. They cover images that could have been others and, with several seeds, these "
    "too; with one seed they cover images alone. Images are resampled with replacement, alike for a run, its baselines "
    "and all seeds, and a score that is pooled over the split is resampled as one. Shares: what is owed to the choice "
    "of images and to that of seeds in the square of Δm's standard error."
)
ATTENTION = (
    "What one pixel took from where, in the networks with cross attention (first seed): the middle pixel of the first "
    "image that is shown of all runs. CTAM gathers from the other tasks' maps at the same scale, CSAM from the same "
    "task's maps of coarser scales. The brighter, the more weight: black is none, the brightest colour four times the "
    "mean of the map or more. A map that is dark violet all over was gathered from everywhere alike."
)
ATTENTION_WORTH = (
    "The weights of a map add up to 1 whatever the answer is worth: they say from where it was gathered, not how much "
    "it matters. **What it is worth is the percentage**: how much the raw prediction at the pixel changes when the "
    "answer is the same everywhere, its mean over the image (norm of the change over the norm of the prediction). All "
    "this is of one pixel of one image: an example, no score. The changes of several answers don't add up."
)


def column(task: str) -> str:
    """The head of a task's column: title, primary metric, unit, and which way is better."""
    spec = get_task(task)
    unit = f" [{spec.unit}]" if spec.unit else ""
    return f"{spec.title} {spec.primary_metric}{unit} {'↑' if spec.higher_is_better else '↓'}"


def label(params: Params, name: str) -> str:
    """A run's name in a table."""
    return f"`{name}` (adopted)" if params.all_runs[name].adopted else f"`{name}`"


def introduction(content: Content, numbers: str) -> str:
    """What was trained and scored, on what. numbers: what scores are, in words."""
    params, info = content.params, content.info
    recipe = params.training
    height, width = recipe.input_size
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    seeds = ", ".join(map(str, params.seeds))
    chosen = params.evaluation.select_on
    weights = "the epoch that did best on a tenth of train, kept out of training," if chosen else "the last weights"
    broken = {split: len(ids) for split, ids in info.skipped.items() if ids}
    skipped = f" Broken samples that were left out: {broken}." if broken else ""
    return (
        f"Dataset `{info.dataset}` ({counts}; digest `{info.digest[:12]}`), backbone `{recipe.backbone}`, "
        f"input {height}x{width}, {recipe.epochs} epochs, batch {recipe.batch_size}, seeds {seeds}. "
        f"Scores are of {weights} on the {params.evaluation.split} split at the labels' own resolution; "
        f"{numbers}.{_balanced(params)}{_adopted(params)}{skipped}"
        f"{_tuned(params, content.delta)}"
    )


def _balanced(params: Params) -> str:
    """The runs whose tasks are balanced otherwise than by fixed weights."""
    runs = {name: run.balancing for name, run in params.all_runs.items() if run.balancing.method != FIXED}
    by = ", ".join(f"`{name}` by {balancing}" for name, balancing in runs.items())
    return f" Balanced: {by}; all others by fixed weights." if by else ""


def _tuned(params: Params, delta: Comparison) -> str:
    """Which runs were tuned, and by how many trials; not of adopted ones, of which nobody knows."""
    by: dict[str, list[str]] = {}
    for name, facts in delta.runs.items():
        if facts.tuning:
            by.setdefault(str(facts.tuning), []).append(f"`{name}`")
    if not by:
        return " No run was tuned: learning rates and the like are as somebody chose them."
    rest = [f"`{name}`" for name, facts in delta.runs.items() if not (facts.tuning or params.run(name).adopted)]
    listed = "; ".join(
        f"{', '.join(runs)} by {tuning}" + (" each" if len(runs) > 1 else "") for tuning, runs in by.items()
    )
    return f" Tuned on a tenth of train: {listed}" + (f"; not tuned: {', '.join(rest)}." if rest else ".")


def _adopted(params: Params) -> str:
    """The runs that are checkpoints of released codes."""
    runs = [f"`{name}`" for name, run in params.all_runs.items() if run.adopted]
    return f" Adopted, trained elsewhere, so their recipe isn't known here: {', '.join(runs)}." if runs else ""


def below_trivial(params: Params, tasks: Sequence[str], delta: Comparison, trivial: Trivial) -> Iterator[str]:
    """A sentence for each score that is no better than that of a constant: nothing was learned, whatever Δm says."""
    for name in params.all_runs:
        for task in tasks:
            spec, entry = get_task(task), delta.scores[name].get(task)
            metric = spec.primary_metric
            score, constant = entry.mean if entry else None, trivial[task][metric]
            if score is None or constant is None or (score > constant if spec.higher_is_better else score < constant):
                continue
            yield (
                f"**`{name}` has learned nothing of {spec.title.lower()}**: {metric} {number(score)} is no "
                f"better than {number(constant)} of the {TRIVIAL}. A gain of it, or over it, means nothing."
            )


def trivial_notes(content: Content) -> Iterator[str]:
    """Of each task the constant that the trivial predictor gives."""
    for task in content.tasks:
        value, classes = content.constants[task], content.info.classes
        if task in classes:
            text = classes[task][int(value)]
        else:
            text = ", ".join(f"{each:.3f}" for each in np.atleast_1d(value))
        yield f"{get_task(task).title}: {text}"
