"""What a training leaves: weights, their digest, the history of its epochs and run.json; and what MLflow gets."""

from __future__ import annotations

import csv
import platform
import resource
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.compute import distributed
from pipeline.compute.device import Device
from pipeline.core import git, paths, provenance
from pipeline.core.errors import TrainingError
from pipeline.core.integrity import file_sha256
from pipeline.data.store import DatasetInfo
from pipeline.evaluation.scoring import finite_or_none
from pipeline.networks.saved_weights import save_weights
from pipeline.params.schema import ResolvedRun
from pipeline.results.run_record import DescribedData, RunRecord, StartedFrom
from pipeline.tasks import get_task
from pipeline.train import resume
from pipeline.train.state import EpochRecord

_COLUMNS = ["epoch", "learning_rate", "loss"]  # of every history


@dataclass(frozen=True)
class Trained:
    """What a training was made of, or an adoption, which run.json is to say.

    start: {task: {run, sha256}} of the networks that it started from. weights: of which epoch.
    """

    run: ResolvedRun
    seed: int
    info: DatasetInfo
    inputs: provenance.Inputs
    device: Device
    start: dict[str, dict[str, str]]
    weights: str
    training_samples: int

    def record(self, history: list[EpochRecord], weights_sha256: str, history_sha256: str) -> RunRecord:
        """All that run.json says; `execution_record` has what differs between two trainings of the same weights."""
        return RunRecord(
            run=self.run.name,
            seed=self.seed,
            input_fingerprint=self.inputs.fingerprint,
            inputs=self.inputs.values,
            dataset=described(self.info, self.run),
            device=self.device.description,
            processes=distributed.world_size(),
            last_validation=finite_or_none((history[-1].scores if history else None) or {}),
            weights=self.weights,
            starts_from={task: StartedFrom(**source) for task, source in self.start.items()},
            training_samples=self.training_samples,
            weights_sha256=weights_sha256,
            history_sha256=history_sha256,
        )


def execution_record(history: list[EpochRecord], attempt: resume.Attempt, started: float) -> dict[str, Any]:
    """When, where and for how long a training ran, and on which commit: for MLflow, as the artifact execution.json.

    Durations are those of all attempts, in seconds, without what was lost to kills.
    """
    return {
        "started": datetime.fromtimestamp(attempt.began, UTC).isoformat(timespec="seconds"),
        "resumed": attempt.number - 1,
        "seconds": round(time.time() - started, 1),
        "training_seconds": round(sum(epoch.seconds for epoch in history), 1),
        "peak_memory_mb": _peak_memory_mb(),
        "host": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores",
        "environment": provenance.environment(),
        **git.git_state(),
        **provenance.dvc_tags(),
    }


def described(info: DatasetInfo, run: ResolvedRun) -> DescribedData:
    """What `saved_model` needs of the dataset to build the network of `run` and to name its classes."""
    classes = {task: list(names) for task, names in info.classes.items() if task in run.all_tasks}
    return DescribedData(info.dataset, classes, info.edge_max_dist)


def write_outs(network: torch.nn.Module, history: list[EpochRecord], trained: Trained) -> str:
    """Write weights, digest, history and run.json, which names the SHA-256 of weights and history; returns the former.

    history: empty where nothing was trained here.

    Raises TrainingError where that fails, as on a full disk.
    """
    name, seed = trained.run.name, trained.seed
    try:
        save_weights(network, paths.weights_file(name, seed))
        digest = file_sha256(paths.weights_file(name, seed))
        if not trained.start:
            paths.write_json(paths.digest_file(name, seed), {"sha256": digest})
        _write_history(paths.history_file(name, seed), history)
        history_digest = file_sha256(paths.history_file(name, seed))
        trained.record(history, digest, history_digest).write(paths.run_file(name, seed))
        return digest
    except OSError as error:
        raise TrainingError(
            f"the result of {name}-{seed} can't be written: {error}. Free some space and run `dvc repro`: it resumes "
            "from the last checkpoint"
        ) from None


def _peak_memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _write_history(path: Path, history: list[EpochRecord]) -> None:
    """One row an epoch.

    Columns: epoch, learning_rate, loss (the sum of all), loss/<task>, loss_auxiliary/<task>, <task>/<primary_metric>.
    """
    rows: list[dict[str, float]] = []
    for record in history:
        row: dict[str, float] = {
            "epoch": record.epoch,
            "learning_rate": record.learning_rate,
            "loss": sum(record.losses.values()),
        }
        row |= record.losses
        row |= {
            f"{t}/{get_task(t).primary_metric}": of[get_task(t).primary_metric]
            for t, of in (record.scores or {}).items()
        }
        rows.append(row)
    with paths.atomic(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]) if rows else _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
