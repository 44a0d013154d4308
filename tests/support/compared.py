"""Three runs with two seeds whose gains are worked out by hand, to be compared."""

from __future__ import annotations

from dataclasses import replace

from pipeline.params.schema import Params
from pipeline.results.run_metrics import PrimaryMetric, RunMetrics
from tests.support.result_files import run_metrics

PRIMARY_METRIC = {"semseg": PrimaryMetric("mIoU", True), "depth": PrimaryMetric("rmse", False)}
# Primary metric scores by run and seed. Gains of `both`, by hand: seed 0 +25 % and +25 %, so Δm 25; seed 1 +10 %
# and -20 %, so Δm -5. Mean 10, sample deviation 15 * sqrt(2).
SCORES = {
    "semseg": {0: {"semseg": 32.0}, 1: {"semseg": 40.0}},
    "depth": {0: {"depth": 0.8}, 1: {"depth": 0.5}},
    "both": {0: {"semseg": 40.0, "depth": 0.6}, 1: {"semseg": 44.0, "depth": 0.6}},
}


def raw_params() -> dict:
    recipe = {"backbone": "net", "input_size": [64, 64], "batch_size": 4, "epochs": 2, "lr": 1e-3}
    return {
        "data": {"dataset": "rooms", "tasks": ["semseg", "depth"]},
        "training": recipe,
        "seeds": [0, 1],
        "runs": {
            "semseg": {"architecture": "single_task", "tasks": ["semseg"]},
            "depth": {"architecture": "single_task", "tasks": ["depth"]},
            "both": {"architecture": "multi_task", "tasks": ["semseg", "depth"], "training": {"lr": 1e-4}},
        },
    }


def result(params: Params, run: str, seed: int) -> RunMetrics:
    declared = params.run(run)
    return run_metrics(
        run=run,
        seed=seed,
        architecture=declared.architecture,
        backbone=declared.training.backbone,
        weights_sha256=f"{seed}" * 64,
        training=declared.training.model_dump(mode="json"),
        primary_metric={task: PRIMARY_METRIC[task] for task in declared.tasks},
        tasks={task: {PRIMARY_METRIC[task].metric: score, "images": 8} for task, score in SCORES[run][seed].items()},
    )


def pick(results: list[RunMetrics], run: str, seed: int = 0) -> RunMetrics:
    return next(one for one in results if (one.run, one.seed) == (run, seed))


def change(results: list[RunMetrics], run: str, seed: int = 0, **values: object) -> None:
    """Give one of the results other values, in its place."""
    one = pick(results, run, seed)
    results[results.index(one)] = replace(one, **values)
