"""From metrics files to Δm: finds each run's single-task baselines and refuses unfair ones.

A metrics file (`reports/metrics/<run>-<seed>.json`) says what was scored: run, seed, architecture, backbone,
dataset, dataset_digest, split, training_samples (images that it was trained on), labelled {split: {task: images with a
label of it}}, training (the run's section of params), parameters, macs, activation_bytes, starts_from {task:
single-task run}, cpu_threads (of a training on a CPU; null on a GPU), tasks {task: {metric: value}} and
primary_metric {task: {metric, higher_is_better}}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.core import names, paths
from pipeline.core.errors import ComparisonError
from pipeline.metrics.delta import multi_task_performance, relative_gain, spread
from pipeline.params.schema import Params, ResolvedRun

Result = dict[str, Any]  # a metrics file
Row = dict[str, Any]  # a line of delta.csv

# What must be the same on both sides: other data or another backbone makes another experiment.
SAME = ("backbone", "dataset", "dataset_digest", "split")

# How many images a run was trained on, and how many have a label by split and task.
SAMPLES = ("training_samples", "labelled")

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

DELTA_M = "delta_m"  # stands in the task column for a whole run's Δm


# -- reading ------------------------------------------------------------------------------------------------


def load_results(params: Params) -> list[Result]:
    """The metrics file of every (run, seed) in params, in that order.

    Raises DataError when one is missing or damaged, ComparisonError when it is of another run than params describes.
    """
    return [_load(params, run, seed) for run in params.all_runs for seed in params.seeds]


def _load(params: Params, run: str, seed: int) -> Result:
    path, declared = paths.metrics_file(run, seed), params.run(run)
    remedy = f"run `dvc repro {declared.stage('evaluate', seed)}`"
    result = paths.read_json(path, missing=f"{remedy} first")
    needed = ["run", "seed", "architecture", *SAME, *SAMPLES, "training", "starts_from", "cpu_threads", *COST]
    needed += ["tasks", "primary_metric"]
    lacks = [key for key in needed if key not in result]
    lacks += [f"training.{key}" for key in SAME_RECIPE if key not in result.get("training", {})]
    if lacks:
        raise ComparisonError(f"{path} lacks {', '.join(lacks)}; delete it and {remedy}")
    for key, want in {
        "run": run,
        "seed": seed,
        "architecture": declared.architecture,
        "backbone": declared.training.backbone,
        "split": params.evaluation.split,
        "tasks": list(declared.tasks),
    }.items():
        got = list(result[key]) if key == "tasks" else result[key]
        if got != want:
            raise ComparisonError(f"{path} is of {key} {got}, params.yaml says {want}; {remedy}")
    return result


# -- fair baselines -----------------------------------------------------------------------------------------


def differences(result: Result, baseline: Result) -> dict[str, tuple[Any, Any]]:
    """Fields that should be the same and are not: {field: (the run's value, the baseline's value)}."""
    pairs = {key: (result[key], baseline[key]) for key in SAME}
    pairs |= {key: (result["training"][key], baseline["training"][key]) for key in SAME_RECIPE}
    for task in baseline["tasks"]:
        pairs[f"{task} metric"] = (result["primary_metric"][task]["metric"], baseline["primary_metric"][task]["metric"])
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def recipe_differences(run: ResolvedRun, baseline: ResolvedRun, allowed: Sequence[str] = ()) -> list[str]:
    """What will make `compare` refuse this pair, as far as params tell: known before anything is trained."""
    ours, theirs = run.training.model_dump(mode="json"), baseline.training.model_dump(mode="json")
    fields = ["backbone", *(key for key in SAME_RECIPE if key not in allowed)]
    return [f"{key} {ours[key]} against {theirs[key]}" for key in fields if ours[key] != theirs[key]]


def find_baseline(result: Result, task: str, results: Iterable[Result], allowed: Sequence[str] = ()) -> Result | None:
    """The single-task result of the same task and seed that `result` may fairly be compared with.

    allowed: recipe values in which it may differ. None when no single-task run has this task at all.
    Raises ComparisonError, naming both sides, when every candidate is unfair or two are equally good.
    """
    candidates = [
        (differences(result, other), other)
        for other in results
        if other["architecture"] == names.SINGLE_TASK
        and list(other["tasks"]) == [task]
        and other["seed"] == result["seed"]
    ]
    if not candidates:
        return None
    candidates.sort(key=lambda candidate: len(set(candidate[0]) - set(allowed)))
    fair = [candidate for candidate in candidates if set(candidate[0]) <= set(allowed)]
    if not fair:
        raise ComparisonError(_unfair(result, task, *candidates[0]))
    fair.sort(key=lambda candidate: len(candidate[0]))
    if len(fair) > 1 and len(fair[0][0]) == len(fair[1][0]):
        first, second = fair[0][1], fair[1][1]
        raise ComparisonError(
            f"{_name(result)} has two {task} baselines, {_name(first)} and {_name(second)}; "
            "keep one of them in params.yaml's runs"
        )
    return fair[0][1]


def _unfair(result: Result, task: str, found: dict[str, tuple[Any, Any]], baseline: Result) -> str:
    told = "\n".join(
        f"  {field}: {ours} in {_name(result)}, {theirs} in {_name(baseline)}"
        for field, (ours, theirs) in found.items()
    )
    recipe = [field for field in found if field in SAME_RECIPE]
    remedy = "Give both the same in params.yaml"
    if len(recipe) == len(found):
        remedy += f", or accept it there with evaluation.allow_different: [{', '.join(recipe)}]"
    return f"{_name(result)} cannot be compared with its {task} baseline {_name(baseline)}:\n{told}\n{remedy}."


def _name(result: Result) -> str:
    return f"{result['run']}-{result['seed']}"


# -- the comparison -----------------------------------------------------------------------------------------


def compare(results: Sequence[Result], allow_different: Sequence[str] = ()) -> dict[str, Any]:
    """Scores of all runs, and the gain of multi-task runs over their single-task baselines of the same seed.

    Returns, ready for JSON (and for `dvc metrics`, which shows mappings and skips lists):
        delta_m {run: {mean, std, n}} in percent, positive is better, std over seeds (None for one seed);
        scores {run: {task: {metric, higher_is_better, mean, std, n, baseline_run, baseline, delta}}};
        runs {run: {architecture, backbone, parameters, macs, activation_bytes}};
        per_seed: rows as in delta.csv; caveats: what a reader must know.
    A run without baselines has scores only. Raises ComparisonError for an unfair pair.
    """
    rows: list[Row] = []
    caveats: dict[str, None] = {}  # an ordered set: the same caveat holds for every seed
    for result in results:
        rows += _rows(result, results, allow_different, caveats)
    runs = {result["run"]: {key: result[key] for key in ("architecture", "backbone", *COST)} for result in results}
    return {
        "delta_m": {run: _gain(rows, run) for run in runs if _of(rows, run, DELTA_M)},
        "scores": {run: _scores(rows, run) for run in runs},
        "runs": runs,
        "per_seed": rows,
        "caveats": list(caveats),
    }


def _rows(result: Result, results: Sequence[Result], allowed: Sequence[str], caveats: dict[str, None]) -> list[Row]:
    """One row per task of one result; after them its Δm, if every task has a gain."""
    alone = result["architecture"] == names.SINGLE_TASK
    if result["starts_from"]:
        origins = ", ".join(dict.fromkeys(result["starts_from"].values()))
        caveats[
            f"{result['run']}: starts from the trained networks of {origins}, so it has learned for longer than these"
        ] = None
    rows, baselines = [], {}
    for task, metrics in result["tasks"].items():
        primary_metric = result["primary_metric"][task]
        score = metrics[primary_metric["metric"]]
        row = {"run": result["run"], "seed": result["seed"], "task": task, **primary_metric, "score": score}
        rows.append(row)
        baseline = None if alone else find_baseline(result, task, results, allowed)
        if baseline is None:
            if not alone:
                caveats[f"{result['run']}: no single-task run for {task}, so no multi-task performance"] = None
            continue
        for field, (ours, theirs) in differences(result, baseline).items():
            pair = f"{result['run']} against {baseline['run']}"
            caveats[f"{pair}: {field} differs, {ours} against {theirs} (allowed in params.yaml)"] = None
        ours, theirs = result["training_samples"], baseline["training_samples"]
        if ours != theirs:
            pair, labelled = f"{result['run']} against {baseline['run']}", result["labelled"]["train"][task]
            caveats[
                f"{pair}: trained on {ours} images ({labelled} of the training split have a label of {task}) against "
                f"{theirs}, each seen once an epoch"
            ] = None
        ours, theirs = result["cpu_threads"], baseline["cpu_threads"]
        if None not in (ours, theirs) and ours != theirs:  # None: a GPU
            pair = f"{result['run']} against {baseline['run']}"
            caveats[f"{pair}: cpu_threads differ, {ours} against {theirs}: sums round otherwise, as by seed"] = None
        row |= {"baseline_run": baseline["run"], "baseline": baseline["tasks"][task][primary_metric["metric"]]}
        try:
            row["delta"] = relative_gain(score, row["baseline"], primary_metric["higher_is_better"])
            baselines[task] = row["baseline"]
        except (
            TypeError,
            ValueError,
        ) as error:  # TypeError: null, a metric that is not defined on this split
            caveats[f"{_name(result)}: no gain for {task}: {error}"] = None
    if len(baselines) == len(rows) and not alone:
        scores = {row["task"]: row["score"] for row in rows}
        signs = {row["task"]: row["higher_is_better"] for row in rows}
        performance = multi_task_performance(scores, baselines, signs)
        rows.append({"run": result["run"], "seed": result["seed"], "task": DELTA_M, "delta": performance})
    return rows


def _of(rows: Sequence[Row], run: str, task: str) -> list[Row]:
    return [row for row in rows if row["run"] == run and row["task"] == task]


def _gain(rows: Sequence[Row], run: str) -> dict[str, Any]:
    return spread([row["delta"] for row in _of(rows, run, DELTA_M)])._asdict()


def _scores(rows: Sequence[Row], run: str) -> dict[str, dict[str, Any]]:
    """{task: primary score of one run over its seeds, its mean baseline and mean gain where there are}."""
    scores = {}
    for task in dict.fromkeys(row["task"] for row in rows if row["run"] == run and row["task"] != DELTA_M):
        found = _of(rows, run, task)
        entry = {key: found[0][key] for key in ("metric", "higher_is_better")}
        values = [row["score"] for row in found]
        if all(value is not None and math.isfinite(value) for value in values):
            entry |= spread(values)._asdict()
        if all("delta" in row for row in found):
            entry["baseline_run"] = found[0]["baseline_run"]
            entry["baseline"] = spread([row["baseline"] for row in found]).mean
            entry["delta"] = spread([row["delta"] for row in found]).mean
        scores[task] = entry
    return scores
