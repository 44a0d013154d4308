"""MODEL_CARD.md of an exported network, in the form of Hugging Face's model cards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.core.provenance import ADOPTED
from pipeline.results.comparison import Comparison, Interval
from pipeline.results.run_metrics import RunMetrics
from pipeline.results.run_record import RunRecord
from pipeline.tasks import get_task
from pipeline.tools.export.config import ModelConfig
from pipeline.tools.export.describe import is_made_here, pretrained_from

_PIPELINE_TAGS = {"depth": "depth-estimation"}  # Hugging Face's name for what it does; of the rest: segmentation
_RECIPE = (
    "epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "precision",
)  # fmt: skip


def model_card(config: ModelConfig, record: RunRecord) -> str:
    """The text. Scores, Δm and their intervals are those in reports, where these are of the same weights."""
    scored = _scores(record)
    compared = _comparison(config, scored) if scored else None
    parts = [
        _front_matter(config, record, scored),
        _what(config),
        _table(config, scored, compared),
        _recipe(config, record),
        _use(config),
        _limits(config, record, scored),
        _provenance(config),
    ]
    return "\n\n".join(parts) + "\n"


def summary(config: ModelConfig, record: RunRecord) -> str:
    """One line: the run's Δm, scores, the network; what is known of it where reports are of the same weights."""
    scored = _scores(record)
    compared = _comparison(config, scored) if scored else None
    gain = compared.delta_m.get(config.run) if compared else None
    of_each = (
        f"{task} {primary.metric} {value:.2f}"
        for task, primary in (scored.primary_metric.items() if scored else ())
        if scored and (value := scored.tasks[task][primary.metric]) is not None
    )
    seeds = f"{gain.n} seed{'' if gain.n == 1 else 's'}" if gain else ""
    facts = ", ".join([*([f"Δm {gain.mean:+.1f} % ({seeds})"] if gain else []), *of_each])
    return f"{facts or 'not scored'}; {config.architecture} on {config.backbone}"


def _scores(record: RunRecord) -> RunMetrics | None:
    file = paths.metrics_file(record.run, record.seed)
    try:
        scored = RunMetrics.read(file) if file.exists() else None
    except DataError:  # of another version, or damaged: a card without scores, not with wrong ones
        return None
    return scored if scored and scored.weights_sha256 == record.weights_sha256 else None


def _comparison(config: ModelConfig, scored: RunMetrics) -> Comparison | None:
    """What `compare` wrote, if it is of these scores: it may be older than they are."""
    try:
        found = Comparison.read(paths.DELTA_JSON) if paths.DELTA_JSON.exists() else None
    except DataError:
        return None
    scores = {task: scored.tasks[task][primary.metric] for task, primary in scored.primary_metric.items()}
    rows = [row for row in found.per_seed if _is_of(row, config) and row.task in scores] if found else []
    return found if {row.task: row.score for row in rows} == scores else None


def _front_matter(config: ModelConfig, record: RunRecord, scored: RunMetrics | None) -> str:
    """YAML, of which JSON's strings, lists and numbers are a part: written without a YAML library."""
    tag = _PIPELINE_TAGS.get(next(iter(config.tasks)), "image-segmentation")
    lines = [
        "---",
        f"license: {config.licence.lower()}",
        "library_name: pytorch",
        f"pipeline_tag: {tag}",
        f"tags: {json.dumps(['multi-task-learning', 'dense-prediction', *config.tasks])}",
    ]
    if scored:
        lines += ["model-index:", f"- name: {config.name}", "  results:"]
        for task, primary in scored.primary_metric.items():
            value = scored.tasks[task][primary.metric]
            if value is None:
                continue
            lines += [
                f"  - task: {{type: {json.dumps(task)}, name: {json.dumps(get_task(task).title)}}}",
                f"    dataset: {{type: {json.dumps(scored.dataset)}, name: {json.dumps(scored.dataset)}, split: "
                f"{json.dumps(scored.split)}}}",
                f"    metrics: [{{type: {json.dumps(primary.metric)}, value: {value:.6g}}}]",
            ]
    return "\n".join([*lines, "---"])


def _what(config: ModelConfig) -> str:
    tasks = ", ".join(get_task(task).title.lower() for task in config.tasks)
    return (
        f"# {config.name}\n\nA `{config.architecture}` network on `{config.backbone}` that predicts {tasks} from one "
        f"photograph, trained on `{config.provenance.get('dataset', 'unknown')}`, images of {config.input_size[0]}x"
        f"{config.input_size[1]} pixels."
    )


def _table(config: ModelConfig, scored: RunMetrics | None, compared: Comparison | None) -> str:
    lines = ["## Tasks", "", "| task | map | metric | score | 95 % interval over images |", "|---|---|---|---:|---|"]
    for task in config.tasks:
        classes = f", {len(config.classes[task])} classes" if task in config.classes else ""
        cells = [get_task(task).title, f"{config.units[task]}{classes}", "-", "not scored", "-"]
        if scored and task in scored.tasks:
            primary = scored.primary_metric[task]
            value = scored.tasks[task][primary.metric]
            cells[2] = f"{primary.metric} {'↑' if primary.higher_is_better else '↓'}"
            cells[3] = "not defined" if value is None else f"{value:.2f} {get_task(task).unit}".strip()
            cells[4] = _interval(compared, config, task)
        lines.append("| " + " | ".join(cells) + " |")
    if scored:
        lines += ["", f"Scored on {scored.samples} images of the split `{scored.split}`, at the labels' resolution."]
    return "\n".join([*lines, *_gain(config, compared)])


def _interval(compared: Comparison | None, config: ModelConfig, task: str) -> str:
    rows = [row for row in compared.per_seed if _is_of(row, config) and row.task == task] if compared else []
    low, high = (rows[0].low, rows[0].high) if rows else (None, None)
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _is_of(row: Any, config: ModelConfig) -> bool:
    return (row.run, row.seed) == (config.run, config.seed)


def _gain(config: ModelConfig, compared: Comparison | None) -> Iterator[str]:
    """What reports say of the run against its single-task baselines."""
    gain = compared.delta_m.get(config.run) if compared else None
    if gain is None:
        return
    yield ""
    interval: Interval | None = gain.interval
    bounds = f" (95 % interval {interval.low:.1f} to {interval.high:.1f})" if interval else ""
    verdict = f": {gain.verdict}" if gain.verdict else ""
    yield (
        f"Δm of the run `{config.run}` against its single-task baselines, over {gain.n} seed"
        f"{'' if gain.n == 1 else 's'}: {gain.mean:.2f} %{bounds}{verdict}."
    )


def _recipe(config: ModelConfig, record: RunRecord) -> str:
    if ADOPTED in record.inputs:
        return f"## Training\n\nTrained elsewhere, by a recipe that is not known here; {record.weights}."
    values = {key: record.inputs.get(f"param training.{key}") for key in _RECIPE}  # JSON
    recipe = ", ".join(f"{key} {json.loads(value)}" for key, value in values.items() if value is not None)
    balancing = json.loads(record.inputs.get("param balancing.method", "null"))
    options = ", ".join(f"{key} {value}" for key, value in config.options.items())
    text = f"{recipe}. The backbone began with {pretrained_from(record) or 'random'} weights."
    text += f" Losses are balanced by {balancing}." if balancing else ""
    text += f" Options of the architecture: {options}." if options else ""
    return f"## Training\n\n{text} {record.training_samples} training images; weights: {record.weights}."


def _use(config: ModelConfig) -> str:
    return (
        "## Use\n\n```python\nimport pipeline  # the repository that trained it, on the path\n"
        f'model = pipeline.load_model("{config.name}")\nmaps = model(photo)  # (H, W, 3) uint8 RGB -> {{task: map}}\n'
        "```\n\nIt takes torch, timm, safetensors and numpy, and opencv-python-headless where a photograph has to be "
        f"resized. By hand: RGB / 255, mean {config.mean}, deviation {config.std}; `model.network(x).final` are raw "
        "predictions."
    )


def _limits(config: ModelConfig, record: RunRecord, scored: RunMetrics | None) -> str:
    lines = [
        f"- Nothing was measured on other images than those of `{record.dataset.name}`.",
        f"- Photographs are resized to {config.input_size[0]}x{config.input_size[1]}, aspect not kept.",
    ]
    if not is_made_here(record):
        lines.append("- The code is Apache-2.0; of the weights, the terms of the data and of the initial weights hold.")
    if not scored:
        lines.append("- It is not scored here: reports hold no scores of these weights.")
    if config.provenance.get("dataset") == "rooms":
        lines.append("- `rooms` is a generated world: it shows that the code learns, and is of no use on photographs.")
    return "## Limits\n\n" + "\n".join(lines)


def _provenance(config: ModelConfig) -> str:
    rows = [("weights' SHA-256", config.weights_sha256), *config.provenance.items(), *config.versions.items()]
    return "\n".join(["## Provenance", "", "| what | value |", "|---|---|", *(f"| {a} | `{b}` |" for a, b in rows)])
