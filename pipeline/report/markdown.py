"""reports/report.md: what was measured, as tables, curves and pictures, out of the files that the stages wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import quote

import numpy as np

from pipeline.comparison import published
from pipeline.compute.device import use_cpu_threads
from pipeline.core import paths, removal
from pipeline.core.errors import DataError
from pipeline.core.names import FIXED, SINGLE_TASK
from pipeline.data.store import DatasetInfo, Store, read_info
from pipeline.evaluation.evaluate_run import load_predictions, painting_contexts, panel_indices
from pipeline.evaluation.scoring import finite_or_none
from pipeline.evaluation.trivial import score_trivial
from pipeline.params.schema import Params
from pipeline.report.cells import count, number, spread, table
from pipeline.report.certainty import certainty_section
from pipeline.report.curves import curves_section
from pipeline.results.comparison import Comparison, RunFacts
from pipeline.results.run_metrics import RunMetrics
from pipeline.tasks import get_task
from pipeline.visual import figures

Results = dict[str, list[RunMetrics]]
"""Metrics files by run, a file for each seed."""

TRIVIAL = "trivial predictor"
_COST = (
    "GMAC (billion multiply-accumulates of a forward pass) and activations: one image at the input size; activations: "
    "float32, kept for the backward pass. How long a training took is a metric in MLflow: cost/training_seconds."
)


def write_report(params: Params) -> None:
    """Write reports/report.md and reports/figures/ for the runs and seeds of `params`."""
    info = read_info()
    tasks = tuple(dict.fromkeys(task for run in params.all_runs.values() for task in run.tasks))
    delta = Comparison.read(paths.DELTA_JSON)
    if lacks := [name for name in params.all_runs if name not in delta.runs]:
        raise DataError(f"{paths.DELTA_JSON} lacks the runs {', '.join(lacks)}; run `dvc repro compare`")
    results = {
        name: [RunMetrics.read(paths.metrics_file(name, seed), run.stage("evaluate", seed)) for seed in params.seeds]
        for name, run in ((name, params.run(name)) for name in params.all_runs)
    }
    removal.remove(paths.FIGURES, paths.REPORTS)
    paths.FIGURES.mkdir(parents=True)
    use_cpu_threads(params.training.cpu_threads)  # the trivial predictor's sums round as those of the networks' scores
    split = params.evaluation.split
    info.check_scored(split)
    train, scored = (Store(paths.PREPARED / name, tasks) for name in ("train", split))
    trivial, constants = score_trivial(train, scored, tasks, info)

    sections = [
        f"# {params.experiment}: multi-task performance\n",
        _introduction(params, info, delta) + _label_counts({"train": train, split: scored}),
        "## Scores\n\n" + _score_table(params, tasks, delta, finite_or_none(trivial), results),
        _gain_section(tasks, delta),
        certainty_section(tasks, [_column(task) for task in tasks], delta),
        _published_section(params, tasks, delta, info),
        "## Pictures\n\n" + "\n".join(_pictures(params, tasks, info, scored, results)),
        "## Training\n\n" + curves_section(params, tasks, delta, results),
        "## Every metric\n\n" + _all_metrics(tasks, trivial, results),
        "## The trivial predictor\n\n" + _trivial_notes(tasks, constants, info),
    ]
    with paths.atomic(paths.REPORT) as file:
        file.write("\n".join(section.rstrip() + "\n" for section in sections if section))


def _introduction(params: Params, info: DatasetInfo, delta: Comparison) -> str:
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
        f"mean ± standard deviation over seeds.{_balanced(params)}{_adopted(params)}{skipped}{_tuned(params, delta)}"
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


def _trained_baselines(params: Params) -> list[str]:
    """Runs of one task that share a row or a column; adopted ones stand by themselves."""
    return [name for name, run in params.all_runs.items() if run.architecture == SINGLE_TASK and not run.adopted]


def _label(params: Params, name: str) -> str:
    """A run's name in a table."""
    return f"`{name}` (adopted)" if params.all_runs[name].adopted else f"`{name}`"


def _label_counts(stores: dict[str, Store]) -> str:
    """How many images of each split have a label of each task, where not all have one."""
    counts = {split: store.label_counts() for split, store in stores.items()}
    if all(count == len(stores[split]) for split, of in counts.items() for count in of.values()):
        return ""
    head = ["images with a label", *(f"{split} (of {len(store)})" for split, store in stores.items())]
    tasks = next(iter(stores.values())).tasks
    rows = [[get_task(task).title, *(str(of[task]) for of in counts.values())] for task in tasks]
    return f"\n\n{table(head, rows)}"


def _score_table(params: Params, tasks: tuple[str, ...], delta: Comparison, trivial: dict, results: Results) -> str:
    head = ["run", *map(_column, tasks), "Δm %", "parameters [M]", "GMAC", "activations [MiB]"]
    rows = [[TRIVIAL, *(number(trivial[task][get_task(task).primary_metric]) for task in tasks), *[""] * 4]]
    single = [name for name, run in params.all_runs.items() if run.architecture == SINGLE_TASK]
    for name in sorted(params.all_runs, key=lambda name: name not in single):  # baselines first, else params' order
        scores = delta.scores[name]
        cells = [spread(scores[task]) if task in scores else "" for task in tasks]
        gain = spread(delta.delta_m[name], sign=True) if name in delta.delta_m else ""
        rows.append([_label(params, name), *cells, gain, *_cost(delta.runs[name])])
    below = "".join(f"\n- {sentence}" for sentence in _below_trivial(params, tasks, delta, trivial))
    return f"{table(head, rows)}\n\n{_COST}" + (f"\n{below}" if below else "")


def _below_trivial(params: Params, tasks: tuple[str, ...], delta: Comparison, trivial: dict) -> Iterator[str]:
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


def _cost(facts: RunFacts) -> tuple[str, str, str]:
    """Parameters in millions, GMAC, activations in MiB."""
    units = {"parameters": (1e6, 2), "macs": (1e9, 2), "activation_bytes": (2**20, 1)}
    parameters, macs, activations = (
        f"{getattr(facts, name) / unit:.{digits}f}" for name, (unit, digits) in units.items()
    )
    return parameters, macs, activations


def _column(task: str) -> str:
    spec = get_task(task)
    unit = f" [{spec.unit}]" if spec.unit else ""
    return f"{spec.title} {spec.primary_metric}{unit} {'↑' if spec.higher_is_better else '↓'}"


def _gain_section(tasks: tuple[str, ...], delta: Comparison) -> str:
    caveats = "".join(f"\n- {caveat}" for caveat in delta.caveats)
    if not delta.delta_m:
        return f"## Gain over the single-task baselines\n\nNo run has a Δm.\n{caveats}" if caveats else ""
    rows = []
    for run, gain in delta.delta_m.items():
        scores = delta.scores[run]
        cells = [number(scores[t].delta, sign=True) if t in scores else "" for t in tasks]
        rows.append([f"`{run}`", *cells, f"**{spread(gain, sign=True)}**"])
    figures.save(figures.gains(delta.scores, delta.delta_m), paths.FIGURES / "gains.png")
    text = "## Gain over the single-task baselines\n\n"
    text += "Δm = 100/M · Σ s (m − b)/b over the M tasks of a run, positive is better, against baselines of the same "
    text += "backbone, data, schedule and seed.\n\n"
    text += table(["run", *(f"{get_task(task).title} %" for task in tasks), "Δm %"], rows)
    return f"{text}{caveats}\n\n![Gain by task; of Δm with its 95 % interval](figures/gains.png)"


def _published_section(params: Params, tasks: tuple[str, ...], delta: Comparison, info: DatasetInfo) -> str:
    """Published rows beside ours, for a dataset that has any."""
    if info.dataset not in published.SETTINGS:
        return ""
    single = _trained_baselines(params)
    groups = {"single task": single} if single else {}
    groups |= {_label(params, name): [name] for name in params.all_runs if name not in single}
    rows = []
    for label, names in groups.items():
        scores = {task: entry for name in names for task, entry in delta.scores[name].items()}
        cells = [spread(scores[task]) if task in scores else "" for task in tasks]
        gain = delta.delta_m.get(names[0])
        verdict = published.verdict([params.run(name) for name in names], params.evaluation, info)
        rows.append([label, *cells, spread(gain, sign=True) if gain else "", "this report", verdict])
    setting = published.SETTINGS[info.dataset]
    for row in setting.rows:
        cells = [number(row.scores[task]) if task in row.scores else "" for task in tasks]
        published_gain = "" if row.delta_m is None else number(row.delta_m, sign=True)
        rows.append([f"{row.method} ({row.backbone})", *cells, published_gain, row.source, row.verdict(setting)])
    return (
        "## Published results\n\n"
        "Rows marked yes have the published setting in common: data, backbone, ImageNet weights, and the recipe that "
        "was published for the network. Every Δm is against its own authors' baselines, so it is never comparable "
        f"between sources. The paper's own tables could not be obtained.\n\n{published.PROTOCOL}\n\n"
        + table(["method", *(_column(task) for task in tasks), "Δm %", "source", "comparable"], rows)
    )


def _pictures(
    params: Params, tasks: tuple[str, ...], info: DatasetInfo, scored: Store, results: Results
) -> Iterable[str]:
    """One panel for each kept sample: the baselines share a column, each multi-task run has one; first seed."""
    seed = params.seeds[0]
    shown = [scored[i] for i in panel_indices(len(scored), params.evaluation.panels)]
    contexts = painting_contexts(info, tasks, shown)
    stored = {name: load_predictions(name, seed, results[name][0].predictions_sha256) for name in params.all_runs}
    single = _trained_baselines(params)
    for sample in shown:

        def predictions(names: Iterable[str], sample_id: str = sample.id) -> dict[str, np.ndarray]:
            found = ((task, stored[name].get(f"{sample_id}/{task}")) for name in names for task in tasks)
            return {task: prediction for task, prediction in found if prediction is not None}

        columns = {"single task": predictions(single)} if single else {}
        columns |= {name: predictions([name]) for name in params.all_runs if name not in single}
        file = paths.FIGURES / f"panel-{sample.id}.png"
        figures.save(figures.panel(sample, columns, tasks, contexts), file)
        yield _picture(f"Sample {sample.id}", f"figures/{file.name}")


def _picture(text: str, target: str) -> str:
    """A picture in Markdown, whatever the ids of samples hold: blanks and brackets would end the link or its text."""
    escaped = re.sub(r"([\\\[\]<>&`])", r"\\\1", text)
    return f"![{escaped}]({quote(target, safe='/')})\n"


def _all_metrics(tasks: tuple[str, ...], trivial: dict[str, dict[str, float]], results: Results) -> str:
    """For each task its protocol and a table of every metric by run, per-class scores folded away."""
    protocol = {task: text for seeds in results.values() for task, text in seeds[0].protocol.items()}
    parts = []
    for task in tasks:
        columns: dict[str, Sequence[Mapping[str, float | None]]] = {TRIVIAL: [trivial[task]]}
        scored = {run: seeds for run, seeds in results.items() if task in seeds[0].tasks}
        columns |= {f"`{run}`": [each.tasks[task] for each in seeds] for run, seeds in scored.items()}
        names = dict.fromkeys(name for seeds in columns.values() for each in seeds for name in each)
        plain = [name for name in names if "/" not in name]
        classes = [name for name in names if "/" in name]  # one that is in no label may be predicted, and counts
        parts.append(f"### {get_task(task).title}\n\n{protocol[task]}\n\n{_metric_table(columns, plain)}")
        if classes:
            parts.append(f"<details><summary>by class</summary>\n\n{_metric_table(columns, classes)}\n\n</details>")
    return "\n\n".join(parts)


def _metric_table(columns: Mapping[str, Sequence[Mapping[str, float | None]]], metrics: list[str]) -> str:
    rows = []
    for metric in metrics:
        values = [[seed.get(metric) for seed in seeds] for seeds in columns.values()]
        show = count if metric in ("images", "valid_pixels") else number
        rows.append([metric.replace("|", r"\|"), *(show(_mean(each)) for each in values)])
    return table(["metric", *columns], rows)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _trivial_notes(tasks: tuple[str, ...], constants: dict[str, np.ndarray], info: DatasetInfo) -> str:
    notes = ["The best constant prediction, learned from the training labels; what any network has to beat."]
    for task in tasks:
        value = constants[task]
        if task in info.classes:
            text = info.classes[task][int(value)]
        else:
            text = ", ".join(f"{each:.3f}" for each in np.atleast_1d(value))
        notes.append(f"- {get_task(task).title}: {text}")
    return "\n".join(notes)
