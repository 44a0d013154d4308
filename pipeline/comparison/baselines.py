"""From metrics files to Δm: finds each run's single-task baselines and refuses unfair ones.

What these files say: `pipeline/results/run_metrics.py`; what `compare` makes of them: `pipeline/results/comparison.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipeline.core import names
from pipeline.core.errors import ComparisonError
from pipeline.metrics.delta import multi_task_performance, relative_gain, spread
from pipeline.params.schema import ResolvedRun
from pipeline.results.comparison import DELTA_M, Comparison, Gain, Row, RunFacts, Score
from pipeline.results.run_metrics import RunMetrics

# What must be the same on both sides: other data or another backbone makes another experiment.
SAME = ("backbone", "dataset", "dataset_digest", "split")

# What one image costs (pipeline/evaluation/cost.py), shown beside the scores.
COST = ("parameters", "macs", "activation_bytes")

# Training values that must be the same, since they change how much a network gets to learn and from what.
SAME_RECIPE = (
    "pretrained",  # prior knowledge
    "output_stride",  # another backbone, in effect
    "hrnet_upsampling",  # likewise
    "initialization",  # where learning starts
    "batch_norm_momentum",  # what evaluation normalises by
    "input_size",  # detail that can be seen
    "batch_size",  # with epochs: the number of steps
    "epochs",
    "optimizer",
    "schedule",
    "power",
    "step_epochs",
    "step_factor",
    "augmentation",  # the data, in effect
    "normalization",  # goes with the pretrained weights
    "precision",
)

# Training values that may differ: tuned for each network in the published recipes, or no part of learning.
TUNED = (
    "lr",
    "weight_decay",
    "momentum",  # sgd's, tuned with lr
    "clip_norm",  # tuned with lr
    "task_weights",  # a single task has nothing to weigh
    "deep_supervision",  # part of the architecture: single-task heads have no auxiliary predictions
    "validate_every",  # how often one looks
    "channels_last",  # memory layout
    "cuda_graph",  # speed
    "compile",  # speed
    "accumulate",  # what fits in memory
    "deterministic",  # the order of sums
    "cpu_threads",  # the same: it favours neither side, and a caveat says where those in force differed
)

# Those of SAME_RECIPE that scoring shows too. Of a network that was adopted, the others say nothing: how it was trained
# is not known here.
OF_SCORING = ("output_stride", "hrnet_upsampling", "input_size", "normalization", "precision")


class UnknownBaseline(Exception):
    """Two single-task runs could be the baseline, and no recipe decides: one side was trained elsewhere."""


# -- fair baselines -----------------------------------------------------------------------------------------


def differences(result: RunMetrics, baseline: RunMetrics) -> dict[str, tuple[Any, Any]]:
    """Fields that should be the same and are not: {field: (the run's value, the baseline's value)}."""
    pairs = {key: (getattr(result, key), getattr(baseline, key)) for key in SAME}
    known = _known_recipe(result.adopted or baseline.adopted)
    pairs |= {key: (result.training[key], baseline.training[key]) for key in known}
    for task in baseline.tasks:
        pairs[f"{task} metric"] = (result.primary_metric[task].metric, baseline.primary_metric[task].metric)
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def recipe_differences(run: ResolvedRun, baseline: ResolvedRun, allowed: Sequence[str] = ()) -> list[str]:
    """What will make `compare` refuse this pair, as far as params tell: known before anything is trained."""
    ours, theirs = run.training.model_dump(mode="json"), baseline.training.model_dump(mode="json")
    known = _known_recipe(bool(run.adopted or baseline.adopted))
    fields = ["backbone", *(key for key in known if key not in allowed)]
    return [f"{key} {ours[key]} against {theirs[key]}" for key in fields if ours[key] != theirs[key]]


def _known_recipe(adopted: bool) -> tuple[str, ...]:
    """The training values that both sides of a pair must share, as far as they are known of an adopted one."""
    return OF_SCORING if adopted else SAME_RECIPE


def find_baseline(
    result: RunMetrics, task: str, results: Iterable[RunMetrics], allowed: Sequence[str] = ()
) -> RunMetrics | None:
    """The single-task result of the same task and seed that `result` may fairly be compared with.

    allowed: recipe values in which it may differ. Where there are any of its own kind, adopted or trained here, those
    of the other are none. None when no single-task run has this task at all.
    Raises ComparisonError, naming both sides, when every candidate is unfair or two are equally good, UnknownBaseline
    for two of the other kind, whose recipes nobody can compare with its own.
    """
    others = [
        other
        for other in results
        if other.architecture == names.SINGLE_TASK and list(other.tasks) == [task] and other.seed == result.seed
    ]
    own_kind = [other for other in others if other.adopted == result.adopted]
    candidates = [(differences(result, other), other) for other in own_kind or others]
    if not candidates:
        return None
    candidates.sort(key=lambda candidate: len(set(candidate[0]) - set(allowed)))
    fair = [candidate for candidate in candidates if set(candidate[0]) <= set(allowed)]
    if not fair:
        raise ComparisonError(_unfair(result, task, *candidates[0]))

    fair.sort(key=lambda candidate: len(candidate[0]))
    if len(fair) > 1 and len(fair[0][0]) == len(fair[1][0]):
        first, second = fair[0][1], fair[1][1]
        if not own_kind:
            raise UnknownBaseline(f"{first.run} and {second.run}")
        raise ComparisonError(
            f"{result.name} has two {task} baselines, {first.name} and {second.name}; "
            "keep one of them in params.yaml's runs"
        )
    return fair[0][1]


def _unfair(result: RunMetrics, task: str, found: dict[str, tuple[Any, Any]], baseline: RunMetrics) -> str:
    listed = "\n".join(
        f"  {field}: {ours} in {result.name}, {theirs} in {baseline.name}" for field, (ours, theirs) in found.items()
    )
    recipe = [field for field in found if field in SAME_RECIPE]
    remedy = "Give both the same in params.yaml"
    if len(recipe) == len(found):
        remedy += f", or accept it there with evaluation.allow_different: [{', '.join(recipe)}]"
    return f"{result.name} cannot be compared with its {task} baseline {baseline.name}:\n{listed}\n{remedy}."


# -- the comparison -----------------------------------------------------------------------------------------


def compare(results: Sequence[RunMetrics], allow_different: Sequence[str] = ()) -> Comparison:
    """Scores of all runs, and the gain of multi-task runs over their single-task baselines of the same seed.

    A run without baselines has scores only; `intervals.add_intervals` adds what they are worth. Raises ComparisonError
    for an unfair pair.
    """
    rows: list[Row] = []
    caveats: dict[str, None] = {}  # an ordered set: the same caveat holds for every seed
    for result in results:
        rows += _rows(result, results, allow_different, caveats)
    runs = {
        each.run: RunFacts(each.architecture, each.backbone, **{key: getattr(each, key) for key in COST})
        for each in results
    }
    return Comparison(
        delta_m={run: _gain(rows, run) for run in runs if _has_gain(rows, run, results, caveats)},
        scores={run: _scores(rows, run) for run in runs},
        runs=runs,
        per_seed=rows,
        conclusions=[],
        caveats=list(caveats),
    )


def _rows(
    result: RunMetrics, results: Sequence[RunMetrics], allowed: Sequence[str], caveats: dict[str, None]
) -> list[Row]:
    """One row per task of one result; after them its Δm, if every task has a gain."""
    alone = result.architecture == names.SINGLE_TASK
    if result.starts_from:
        origins = ", ".join(dict.fromkeys(result.starts_from.values()))
        caveats[
            f"{result.run}: starts from the trained networks of {origins}, so it has learned for longer than these"
        ] = None
    if result.adopted:
        caveats[f"{result.run}: adopted, trained elsewhere: its recipe isn't known here"] = None
        if [each.weights_sha256 for each in results if each.run == result.run].count(result.weights_sha256) > 1:
            text = "one file stands for several seeds, so nothing is known of how its scores vary by seed"
            caveats[f"{result.run}: {text}"] = None
    rows: list[Row] = []
    scores: dict[str, float] = {}
    baselines: dict[str, float] = {}
    for task, metrics in result.tasks.items():
        primary = result.primary_metric[task]
        score = metrics[primary.metric]
        row = Row(result.run, result.seed, task, primary.metric, primary.higher_is_better, score)
        baseline = None
        try:
            if not alone and (baseline := find_baseline(result, task, results, allowed)) is None:
                caveats[f"{result.run}: no single-task run for {task}, so no multi-task performance"] = None
        except UnknownBaseline as error:
            text = f"which of {error} is its {task} baseline can't be known, so no multi-task performance"
            caveats[f"{result.run}: {text}"] = None
        if baseline is not None:
            caveats.update(dict.fromkeys(_pair_caveats(result, task, baseline)))
            other = baseline.tasks[task][primary.metric]
            row = replace(row, baseline_run=baseline.run, baseline=other)
            try:
                if score is None or other is None:
                    raise ValueError(f"score {score} against baseline {other}: both must be defined")
                row = replace(row, delta=relative_gain(score, other, primary.higher_is_better))
                scores[task], baselines[task] = score, other
            except ValueError as error:
                caveats[f"{result.name}: no gain for {task}: {error}"] = None
        rows.append(row)
    if not alone and len(baselines) == len(rows):
        signs = {task: primary.higher_is_better for task, primary in result.primary_metric.items()}
        performance = multi_task_performance(scores, baselines, signs)
        rows.append(Row(result.run, result.seed, DELTA_M, delta=performance))
    return rows


def _pair_caveats(result: RunMetrics, task: str, baseline: RunMetrics) -> Iterator[str]:
    """What is not the same on both sides of a pair that may be compared."""
    pair = f"{result.run} against {baseline.run}"
    for name, (ours, theirs) in differences(result, baseline).items():
        yield f"{pair}: {name} differs, {ours} against {theirs} (allowed in params.yaml)"
    if result.adopted != baseline.adopted:
        kinds = [("adopted, trained elsewhere" if each.adopted else "trained here") for each in (result, baseline)]
        yield f"{pair}: {kinds[0]} against {kinds[1]}, so their recipes may differ in anything"
    if result.adopted or baseline.adopted:  # how many images, on what: not known
        return
    if result.training_samples != baseline.training_samples:
        labelled = result.labelled["train"][task]
        yield (
            f"{pair}: trained on {result.training_samples} images ({labelled} of the training split have a label of "
            f"{task}) against {baseline.training_samples}, each seen once an epoch"
        )
    threads = result.cpu_threads, baseline.cpu_threads
    if None not in threads and threads[0] != threads[1]:  # None: a GPU
        yield f"{pair}: cpu_threads differ, {threads[0]} against {threads[1]}: sums round otherwise, as by seed"


def _of(rows: Sequence[Row], run: str, task: str) -> list[Row]:
    return [row for row in rows if row.run == run and row.task == task]


def _has_gain(rows: Sequence[Row], run: str, results: Sequence[RunMetrics], caveats: dict[str, None]) -> bool:
    """Whether there is a Δm of every seed: a mean over those that have one would be of a chosen few."""
    have = [row.seed for row in _of(rows, run, DELTA_M)]
    lack = [each.seed for each in results if each.run == run and each.seed not in have]
    if have and lack:
        caveats[f"{run}: no multi-task performance of seed {', '.join(map(str, lack))}, so none of the run"] = None
    return bool(have) and not lack


def _gain(rows: Sequence[Row], run: str) -> Gain:
    return Gain(*spread(_known(row.delta for row in _of(rows, run, DELTA_M))))


def _scores(rows: Sequence[Row], run: str) -> dict[str, Score]:
    """{task: primary score of one run over its seeds, its mean baseline and mean gain where there are}."""
    scores = {}
    for task in dict.fromkeys(row.task for row in rows if row.run == run and row.task != DELTA_M):
        found = _of(rows, run, task)
        first = found[0]
        assert first.metric is not None and first.higher_is_better is not None
        entry = Score(first.metric, first.higher_is_better)
        values = _known(row.score for row in found)
        if len(values) == len(found) and all(map(math.isfinite, values)):
            mean, std, n = spread(values)
            entry = replace(entry, mean=mean, std=std, n=n)
        gains, others = _known(row.delta for row in found), _known(row.baseline for row in found)
        if len(gains) == len(found):
            mean_baseline, mean_gain = spread(others).mean, spread(gains).mean
            entry = replace(entry, baseline_run=first.baseline_run, baseline=mean_baseline, delta=mean_gain)
        scores[task] = entry
    return scores


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
