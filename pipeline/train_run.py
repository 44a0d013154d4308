"""One training run from prepared data to saved weights, recorded in MLflow: the work of the DVC stage `train`."""

from __future__ import annotations

import csv
import platform
import resource
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch

from pipeline import paths, provenance, resume
from pipeline.checkpoint import load_single_task_weights, save_weights, weights_digest
from pipeline.cost import measure
from pipeline.datasets.augment import Augmenter, ValueGeometry
from pipeline.datasets.resident import training_batches
from pipeline.datasets.store import DatasetInfo, Store, read_info
from pipeline.device import Device, choose_device
from pipeline.errors import DataError, TrainingError
from pipeline.evaluation import finite_or_none, score
from pipeline.network import build_network
from pipeline.params import Params, ResolvedRun, load_params
from pipeline.resume import Checkpoints
from pipeline.selection import Selection
from pipeline.tasks import get_task
from pipeline.tracking import RunLog, close_runs, connect, training_run
from pipeline.training import train
from pipeline.training_state import EpochRecord

HOLDOUT_EVERY = 10  # with evaluation.select_on, every 10th training sample is kept out of training


def train_run(params: Params, name: str, seed: int) -> None:
    """Train run `name` with `seed`; writes models/<run>-<seed>/ and reports/history/<run>-<seed>.csv.

    A run of `runs` also leaves models/digests/<run>-<seed>.json, for those of `runs_from_single_task`.
    Goes on where an earlier attempt at the same was killed, if there was one, in the same MLflow run.
    Raises TrainingError for a loss that is not finite, when an input was edited meanwhile and while another process is
    at the same; TrackingError, before anything is computed, when MLflow's store can't be reached, and at the end, with
    everything kept for the next attempt, when it is away for long.
    """
    run, info = params.run(name), read_info()
    start, recipe = _start(run, seed), run.training
    device = choose_device(recipe.precision, recipe.channels_last, recipe.deterministic)
    inputs = training_inputs(params, name, seed, info, device)
    experiment = connect(params.experiment)
    with resume.attempt(training_key(inputs, info)) as attempt:
        close_runs(experiment, set(resume.dormant().values()) - {None})
        started = time.time() - attempt.seconds
        tags = {"input_fingerprint": inputs.fingerprint}
        with training_run(experiment, f"{name}-{seed}", attempt.training_id, tags, attempt.points) as log:
            torch.manual_seed(seed)
            network = device.network(build_network(run, info, False if start else recipe.pretrained))
            load_single_task_weights(network, start, seed)
            if network.backbone.load_report:
                print(f"{run.training.backbone}: {network.backbone.load_report}")
            _describe(log, params, run, seed, info, network, device, inputs)
            taught, watched = _stores(run, params.evaluation.select_on is not None)
            selection = Selection(run.tasks) if params.evaluation.select_on else None
            batches = training_batches(taught, recipe.input_size, recipe.batch_size, seed, device.torch_device)
            log.tags({"batches": batches.description})
            history = train(
                network,
                batches,
                make_augmenter(run),
                run,
                seed,
                device,
                log.metrics,
                lambda: score(network, watched, run.tasks, info, recipe, params.evaluation.batch_size, device),
                selection,
                Checkpoints(attempt, params.checkpoint_minutes, lambda: (log.points, time.time() - started)),
            )
            inputs.check_unchanged(training_inputs(load_params(), name, seed, read_info(), device))
            weights = f"epoch {selection.epoch}, best on a tenth of train kept out" if selection else "last epoch"
            record = _record(log.id, run, seed, inputs, history, device, attempt, started)
            record |= {"weights": weights, "starts_from": start}
            _write_outs(network, history, record)
            log.tags({"weights": weights})
            log.artifact(paths.weights_file(name, seed), "checkpoint")
            log.artifact(paths.history_file(name, seed))
            log.artifact(paths.run_file(name, seed))


def training_inputs(params: Params, name: str, seed: int, info: DatasetInfo, device: Device) -> provenance.Inputs:
    """All that decides the result, and device and precision, since a training is not to change them on its way."""
    run = params.run(name)
    values = run.model_dump() | {"seed": seed, "select_on": params.evaluation.select_on, "start": _start(run, seed)}
    values |= {"device": device.torch_device.type, "dtype": str(device.dtype)}
    pretrained = run.training.pretrained
    files = [Path(pretrained)] if isinstance(pretrained, str) else []
    return provenance.collect_inputs("train", values, info.digest, files)


def training_key(inputs: provenance.Inputs, info: DatasetInfo) -> str:
    """Names what is kept of a training: its inputs, and the code that scores it on the way."""
    scoring = provenance.collect_inputs("evaluate", {}, info.digest)
    return provenance.Inputs(inputs.values | scoring.values).fingerprint


def _start(run: ResolvedRun, seed: int) -> dict[str, dict[str, str]]:
    """{task: {run, sha256}}: the trained networks that the run starts from; empty where it starts afresh."""
    return paths.read_json(paths.start_file(run.name, seed)) if run.from_single_task else {}


def make_augmenter(run: ResolvedRun) -> Augmenter:
    """The augmentation that params ask for, with the value rules of the run's tasks."""
    chosen = run.training.augmentation
    rules = {task: get_task(task) for task in run.all_tasks}
    values = {name: ValueGeometry(task.on_flip, task.on_rotate, task.on_zoom) for name, task in rules.items()}
    return Augmenter(**chosen.model_dump(), values=values)


def _stores(run: ResolvedRun, selects: bool) -> tuple[Store, Store]:
    """What teaches, and what is scored meanwhile: the val split, only to be watched, or a tenth kept out of train."""
    train_split = Store(paths.PREPARED / "train", run.all_tasks).labelled()
    if not len(train_split):
        raise DataError(f"run {run.name}: no training sample has a valid pixel for {', '.join(run.all_tasks)}")
    if not selects:
        return train_split, Store(paths.PREPARED / "val", run.tasks)
    kept_out = np.arange(len(train_split)) % HOLDOUT_EVERY == HOLDOUT_EVERY - 1
    if not kept_out.any():
        raise DataError(
            f"run {run.name}: evaluation.select_on needs {HOLDOUT_EVERY} training samples or more, "
            f"got {len(train_split)}; set it to null"
        )
    return train_split.select(np.flatnonzero(~kept_out)), train_split.select(np.flatnonzero(kept_out))


def _describe(
    log: RunLog,
    params: Params,
    run: ResolvedRun,
    seed: int,
    info: DatasetInfo,
    network: torch.nn.Module,
    device: Device,
    inputs: provenance.Inputs,
) -> None:
    """Tell MLflow, at the start, what this run is."""
    cost = asdict(measure(network, run.training.input_size))
    log.params(params.flat(run.name) | {"run": run.name, "seed": seed} | cost)
    log.tags(
        {
            "run": run.name,
            "seed": str(seed),
            "architecture": run.architecture,
            "tasks": ",".join(run.tasks),
            "input_fingerprint": inputs.fingerprint,
            "device": device.description,
            "precision": str(device.dtype).removeprefix("torch."),
            "tf32": str(device.tf32).lower(),
            "compiled": str(device.compiles(run.training.compile)).lower(),
            "fused_optimizer": str(device.has_fused_optimizers).lower(),
            "pretrained": str(network.backbone.load_report or "none: random initialisation"),
            **{f"version.{package}": number for package, number in provenance.environment().items()},
            **provenance.git_state(),
            **provenance.dvc_tags(),
        }
    )
    log.dataset(info.dataset, info.digest, "training")


def _record(
    run_id: str,
    run: ResolvedRun,
    seed: int,
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
        "training_key": attempt.key,
        "started": datetime.fromtimestamp(attempt.began, UTC).isoformat(timespec="seconds"),
        "resumed": attempt.number - 1,
        "seconds": round(time.time() - started, 1),
        "training_seconds": round(sum(epoch.seconds for epoch in history), 1),
        "peak_memory_mb": _peak_memory_mb(),
        "device": device.description,
        "host": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores",
        "environment": provenance.environment(),
        **provenance.git_state(),
        **provenance.dvc_tags(),
        "last_validation": finite_or_none(history[-1].scores or {}),
    }


def _write_outs(network: torch.nn.Module, history: list[EpochRecord], record: dict) -> None:
    name, seed = record["run"], record["seed"]
    try:
        save_weights(network, paths.weights_file(name, seed))
        digest = weights_digest(paths.weights_file(name, seed))
        if not record["starts_from"]:
            paths.write_json(paths.digest_file(name, seed), {"sha256": digest})
        _write_history(paths.history_file(name, seed), history)
        paths.write_json(paths.run_file(name, seed), record | {"weights_sha256": digest})
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
