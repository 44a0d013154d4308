"""Files of results, filled with values that fit together."""

from __future__ import annotations

from typing import Any

from pipeline.core.provenance import Inputs
from pipeline.results.comparison import Comparison, Gain, Row, RunFacts, Score
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
    }
    return RunMetrics(**(values | changes))


def comparison() -> Comparison:
    """One run whose semseg is not defined, with a baseline for depth."""
    facts = RunFacts("multi_task", "net", 1000, 2000, 4000)
    depth = Score("rmse", False, 0.5, None, 1, "depth", 1.0, 50.0)
    return Comparison(
        delta_m={"both": Gain(50.0, None, 1)},
        scores={"both": {"depth": depth, "semseg": Score("mIoU", True)}},
        runs={"both": facts},
        per_seed=[
            Row("both", 0, "depth", "rmse", False, 0.5, "depth", 1.0, 50.0),
            Row("both", 0, "semseg", "mIoU", True, None, "semseg", None),
            Row("both", 0, "delta_m", delta=50.0),
        ],
        caveats=["one"],
    )
