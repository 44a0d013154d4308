"""What a training leaves: weights, their digest, the history of its epochs and run.json."""

from __future__ import annotations

import csv
import platform
import resource
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline import distributed, paths, provenance, resume
from pipeline.checkpoint import save_weights
from pipeline.datasets.store import DatasetInfo
from pipeline.device import Device
from pipeline.errors import TrainingError
from pipeline.evaluation import finite_or_none
from pipeline.integrity import file_sha256
from pipeline.params import ResolvedRun
from pipeline.tasks import get_task
from pipeline.training_state import EpochRecord


def training_record(
    run_id: str,
    run: ResolvedRun,
    seed: int,
    info: DatasetInfo,
    inputs: provenance.Inputs,
    history: list[EpochRecord],
    device: Device,
    attempt: resume.Attempt,
    started: float,
) -> dict:
    """What run.json says: who trained these weights, from what, on what, for how long, and how they scored.

    Durations are those of all attempts, without what was lost to kills.
    """
    return {
        "run": run.name,
        "seed": seed,
        "mlflow_run_id": run_id,
        "input_fingerprint": inputs.fingerprint,
        "inputs": inputs.values,
        "dataset": described(info, run),
        "training_key": attempt.key,
        "started": datetime.fromtimestamp(attempt.began, UTC).isoformat(timespec="seconds"),
        "resumed": attempt.number - 1,
        "seconds": round(time.time() - started, 1),
        "training_seconds": round(sum(epoch.seconds for epoch in history), 1),
        "peak_memory_mb": _peak_memory_mb(),
        "device": device.description,
        "processes": distributed.count(),
        "host": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores",
        "environment": provenance.environment(),
        **provenance.git_state(),
        **provenance.dvc_tags(),
        "last_validation": finite_or_none(history[-1].scores or {}),
    }


def described(info: DatasetInfo, run: ResolvedRun) -> dict[str, Any]:
    """What `saved_model` needs of the dataset to build the network of `run` and to name its classes."""
    classes = {task: list(names) for task, names in info.classes.items() if task in run.all_tasks}
    return {"name": info.dataset, "classes": classes, "edge_max_dist": info.edge_max_dist}


def write_outs(network: torch.nn.Module, history: list[EpochRecord], record: dict) -> None:
    """Write weights, digest, history and run.json, which names the SHA-256 of weights and history.

    Raises TrainingError where that fails, as on a full disk.
    """
    name, seed = record["run"], record["seed"]
    try:
        save_weights(network, paths.weights_file(name, seed))
        digest = file_sha256(paths.weights_file(name, seed))
        if not record["starts_from"]:
            paths.write_json(paths.digest_file(name, seed), {"sha256": digest})
        _write_history(paths.history_file(name, seed), history)
        record |= {"weights_sha256": digest, "history_sha256": file_sha256(paths.history_file(name, seed))}
        paths.write_json(paths.run_file(name, seed), record)
    except OSError as error:
        raise TrainingError(
            f"the result of {name}-{seed} can't be written: {error}. Free some space and run `dvc repro`: it goes on "
            "from the last checkpoint"
        ) from None


def _peak_memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _write_history(path: Path, history: list[EpochRecord]) -> None:
    """One row an epoch, for `dvc plots`.

    Columns: epoch, learning_rate, loss (the sum of all), loss/<task>, loss_auxiliary/<task>, <task>/<headline>.
    """
    rows = []
    for record in history:
        row = {
            "epoch": record.epoch,
            "learning_rate": record.learning_rate,
            "loss": sum(record.losses.values()),
        }
        row |= record.losses
        row |= {f"{t}/{get_task(t).headline}": of[get_task(t).headline] for t, of in (record.scores or {}).items()}
        rows.append(row)
    with paths.atomic(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]), restval="")
        writer.writeheader()
        writer.writerows(rows)
