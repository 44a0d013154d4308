"""A project with one result in it, written by the functions that write results, and a real MLflow store; untrained."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from torch import nn

from pipeline.compute import distributed
from pipeline.compute.device import choose_device
from pipeline.core import paths, run_folders
from pipeline.core.git import git_state
from pipeline.data.store import read_info
from pipeline.datasets.packing_inputs import packing_inputs
from pipeline.evaluation.evaluate_run import origin
from pipeline.params.load import load_params
from pipeline.results.run_record import RunRecord
from pipeline.tracking import mlflow_run
from pipeline.tracking.run_log import EXECUTION
from pipeline.train import resume
from pipeline.train.outputs import Trained, execution_record, write_outs
from pipeline.train.state import EpochRecord
from pipeline.train.training_inputs import training_inputs, training_key
from tests.support.result_files import run_metrics

PARAMS = {
    "experiment": "traced",
    "data": {"dataset": "rooms", "tasks": ["semseg", "depth"]},
    "training": {
        "backbone": "hrnet_w18_small", "input_size": [32, 64], "batch_size": 4, "epochs": 2, "lr": 1.0e-3,
        "precision": "float32",
    },
    "seeds": [0],
    "runs": {
        "depth": {"architecture": "single_task", "tasks": ["depth"]},
        "pair": {"architecture": "multi_task", "tasks": ["semseg", "depth"]},
    },
}  # fmt: skip
INFO = {
    "dataset": "rooms", "tasks": ["semseg", "depth"], "classes": {"semseg": ["floor", "wall"]}, "edge_max_dist": 0.01,
    "splits": {"train": 8, "val": 4}, "digest": "d" * 64, "skipped": {}, "published": False,
}  # fmt: skip
CODE = Path(__file__).parents[2]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """A project of its own in `folder`, which is the working folder and where the store of runs lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIPELINE_DEVICE", "cpu")
        patch.setenv("DVC_ROOT", str(folder))
        patch.chdir(folder)
        make_project(folder)
        yield


def make_project(folder: Path) -> None:
    """Code, params and the description of prepared data."""
    shutil.copytree(CODE / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CODE / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    paths.write_json(folder / "data/prepared/dataset.json", INFO)
    packing = {"data": [INFO["digest"]], "inputs": packing_inputs(load_params().data).lines}
    paths.write_json(folder / paths.PACKED_FROM, packing)


def make_result(name: str = "pair", seed: int = 0) -> dict:
    """What `train` and `evaluate` leave of a run, in the working folder and in MLflow.

    Returns run.json, and beside its entries `mlflow` (the run's id) and those of execution.json.
    """
    params = load_params()
    run, info, device = params.run(name), read_info(), choose_device("float32", True, cpu_threads=1)
    inputs = training_inputs(params, name, seed, info, device, distributed.world_size())
    experiment = mlflow_run.connect(params.experiment)
    history = [EpochRecord(1, 1e-3, {"loss/depth": 1.0}, 2.0, {"depth": {"rmse": 1.0}})]
    with resume.attempt(training_key(inputs, info, name)) as attempt:
        tags = {"run": name, "seed": str(seed), **git_state()}
        with mlflow_run.training_run(experiment, f"{name}-{seed}", attempt.training_id, tags) as log:
            trained = Trained(run, seed, info, inputs, device, {}, "last epoch", 8)
            digest = write_outs(nn.Linear(2, 2), history, trained)
            attempt.finish(f"{name}-{seed}", digest)
            log.tags({"weights_sha256": digest})
            log.artifact(paths.run_file(name, seed))
            execution = execution_record(history, attempt, time.time())
            log.json(execution, EXECUTION)
    record = RunRecord.read(paths.run_file(name, seed))
    run_folders.delete_finished(f"{name}-{seed}", digest)
    score(record)
    return paths.read_json(paths.run_file(name, seed)) | execution | {"mlflow": log.id}


def score(record: RunRecord) -> None:
    """The metrics file of a model; what is not of its origin is made up."""
    run_metrics(run=record.run, seed=record.seed, **origin(record)).write(paths.metrics_file(record.run, record.seed))
