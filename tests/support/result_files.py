"""Files of results, filled with values that fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.core import paths
from pipeline.core.integrity import file_sha256
from pipeline.core.provenance import Inputs
from pipeline.evaluation.statistics import SplitStatistics
from pipeline.results.comparison import Comparison, Gain, Interval, Row, RunFacts, Score
from pipeline.results.run_metrics import PrimaryMetric, RunMetrics
from pipeline.results.run_record import DescribedData, RunRecord, StartedFrom

DIGEST = "d" * 64
INPUTS = Inputs({"param cpu_threads": "1", "param training.lr": "0.001", "data": DIGEST})


def run_record(**changes: Any) -> RunRecord:
    values = {
        "run": "both",
        "seed": 0,
        "input_fingerprint": INPUTS.fingerprint,
        "inputs": INPUTS.values,
        "dataset": DescribedData("rooms", {"semseg": ["floor", "wall"]}, 0.01),
        "device": "CPU, 1 thread",
        "processes": 1,
        "last_validation": {"depth": {"rmse": 0.5, "images": 8, "log_rmse": None}},
        "weights": "last epoch",
        "starts_from": {"depth": StartedFrom("depth", DIGEST)},
        "training_samples": 8,
        "weights_sha256": "a" * 64,
        "history_sha256": "b" * 64,
    }
    return RunRecord(**(values | changes))


def run_metrics(**changes: Any) -> RunMetrics:
    """tasks and primary_metric go together; labels and protocols of other tasks do no harm."""
    tasks = changes.get("tasks", {"depth": {"rmse": 0.5, "images": 8, "log_rmse": None}})
    values = {
        "run": "both",
        "seed": 0,
        "architecture": "multi_task",
        "backbone": "net",
        "dataset": "rooms",
        "dataset_digest": DIGEST,
        "split": "val",
        "samples": 4,
        "training_samples": 8,
        "labelled": {"train": dict.fromkeys(tasks, 8), "val": dict.fromkeys(tasks, 4)},
        "skipped": {"train": 0, "val": 0},
        "published_split": False,
        "weights": "last epoch",
        "starts_from": {},
        "protocol": {"all": "fair", **dict.fromkeys(tasks, "well")},
        "training": {"lr": 0.001, "input_size": [64, 64]},
        "parameters": 1000,
        "macs": 2000,
        "activation_bytes": 4000,
        "input_fingerprint": INPUTS.fingerprint,
        "weights_sha256": "a" * 64,
        "device": "CPU, 1 thread",
        "processes": 1,
        "cpu_threads": 1,
        "inputs": INPUTS.lines,
        "primary_metric": {"depth": PrimaryMetric("rmse", False)},
        "tasks": tasks,
        "history_sha256": "b" * 64,
        "predictions_sha256": "c" * 64,
        "statistics_sha256": "e" * 64,
    }
    return RunMetrics(**(values | changes))


def comparison() -> Comparison:
    """One run whose semseg is not defined, with a baseline for depth."""
    facts = RunFacts("multi_task", "net", 1000, 2000, 4000)
    interval = Interval(-10.0, 110.0, 30.0, 1.0, None, 1, 4, 4000)
    depth = Score("rmse", False, 0.5, None, 1, "depth", 1.0, 50.0, interval)
    return Comparison(
        delta_m={"both": Gain(50.0, None, 1, interval, "not distinguishable", 6)},
        scores={"both": {"depth": depth, "semseg": Score("mIoU", True)}},
        runs={"both": facts},
        per_seed=[
            Row("both", 0, "depth", "rmse", False, 0.5, "depth", 1.0, 50.0, 0.4, 0.6),
            Row("both", 0, "semseg", "mIoU", True, None, "semseg", None),
            Row("both", 0, "delta_m", delta=50.0),
        ],
        conclusions=["both: no telling"],
        caveats=["one"],
    )


def with_statistics(
    result: RunMetrics,
    images: int = 40,
    noise: float = 0.1,
    ids: list[str] | None = None,
    labelled: Mapping[str, int] | None = None,
) -> RunMetrics:
    """Write statistics of so many images that give the result's mIoU and RMSE, and return it with their SHA-256.

    Images differ by `noise`, in pairs that make up for each other. labelled: of a task, how many have a label; all.
    """
    rng = np.random.default_rng([result.seed, *result.run.encode()])
    halves, pixels = rng.uniform(-noise, noise, images // 2), 10_000_000
    tasks, formulas = {}, {}
    for task, metrics in result.tasks.items():
        images = (labelled or {}).get(task, 2 * len(halves))
        half = halves[: images // 2]
        factors = 1 + np.concatenate([half, -half])
        score = metrics[result.primary_metric[task].metric]
        if task == "semseg":  # of one class
            exact = np.rint(score / 100 * pixels * factors).astype(np.int64)
            exact[0] += round(score / 100 * pixels * images) - exact.sum()
            all_pixels = np.full((images, 1), pixels)
            tasks[task] = {"hit": exact[:, None], "labelled": all_pixels, "predicted": exact[:, None]}
        else:
            tasks[task] = {"squared": score**2 * pixels * factors, "pixels": np.full(images, pixels)}
        lacking = 2 * len(halves) - images
        tasks[task] = {
            name: np.concatenate([values, np.zeros((lacking, *values.shape[1:]), values.dtype)])
            for name, values in tasks[task].items()
        }
        formulas[task] = "mean_iou" if task == "semseg" else "root_mean_square"
    path = paths.statistics_file(result.run, result.seed)
    SplitStatistics(ids or [str(i) for i in range(2 * len(halves))], tasks, formulas).write(path)
    return replace(result, statistics_sha256=file_sha256(path))
