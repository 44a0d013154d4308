"""From a folder in models to the config of an exported one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pipeline.compute.device import NORMALIZATIONS
from pipeline.core import paths
from pipeline.core.errors import DataError, TrackingError
from pipeline.core.provenance import ADOPTED, environment
from pipeline.data.store import DatasetInfo
from pipeline.results.run_record import RunRecord
from pipeline.tasks import get_task
from pipeline.tools.export.config import ModelConfig
from pipeline.tools.saved_model import SavedModel

OWN_LICENCE = "Apache-2.0"  # of weights that are made of nothing but this repository: trained on rooms, from scratch
OTHER_LICENCE = "other"  # data and initial weights have terms of their own


def describe_run(model: SavedModel, seed: int = 0) -> ModelConfig:
    """The config of a trained network, without its provenance. Raises DataError for a task without classes."""
    run, recipe = model.run, model.run.training
    normalization = NORMALIZATIONS[recipe.normalization]
    return ModelConfig(
        run=run.name,
        seed=seed,
        architecture=run.architecture,
        options=dict(run.options),
        backbone=recipe.backbone,
        output_stride=recipe.output_stride,
        hrnet_upsampling=recipe.hrnet_upsampling,
        tasks=_channels(model.info, run.tasks),
        auxiliary_tasks=_channels(model.info, run.auxiliary_tasks),
        classes={task: list(names) for task, names in model.info.classes.items()},
        units={task: _unit(task) for task in run.tasks},
        edge_max_dist=float(model.info.edge_max_dist),
        input_size=list(recipe.input_size),
        normalization=recipe.normalization,
        mean=list(normalization.mean),
        std=list(normalization.std),
        precision=recipe.precision,
        channels_last=recipe.channels_last,
        weights_sha256=model.sha256,
        licence=OTHER_LICENCE,
        versions=environment(),
        provenance={},
    )


def with_origin(config: ModelConfig, record: RunRecord) -> ModelConfig:
    """The config with the seed and where the network comes from.

    Commit and MLflow's run are those of the training where MLflow's store knows it. Without the store, or with another,
    config.json says `unknown`: an export needs none.
    """
    origin = {
        "dataset": record.dataset.name,
        "dataset_digest": record.inputs.get("data", "unknown"),
        "input_fingerprint": record.input_fingerprint,
        "weights": record.weights,
        "trained_on": record.device,
        **_tracked(record),
    }
    licence = OWN_LICENCE if is_made_here(record) else OTHER_LICENCE
    return replace(config, seed=record.seed, licence=licence, provenance=origin)


def is_made_here(record: RunRecord) -> bool:
    """Whether nothing but this repository went into the weights: generated data, no weights from elsewhere."""
    return record.dataset.name == "rooms" and pretrained_from(record) is None and ADOPTED not in record.inputs


def pretrained_from(record: RunRecord) -> str | None:
    """Where the backbone's first weights came from, without the folder of a file; None for random ones."""
    value = json.loads(record.inputs.get("param training.pretrained", "false"))
    if isinstance(value, str):
        return Path(value).name
    return "timm" if value else None


def _tracked(record: RunRecord) -> dict[str, str]:
    from pipeline.tracking.queries import execution_record, find_result  # imports mlflow: not for `load_model`

    try:
        found = find_result(record.run, record.seed, record.weights_sha256)
        executed = execution_record(found) if found else {}
    except TrackingError:
        found, executed = None, {}
    commit = str(executed.get("git.commit", "unknown"))
    return {
        "git.commit": commit + (" with edits" if executed.get("git.dirty") == "true" else ""),
        "mlflow_run": found.id if found else "unknown",
    }


def _channels(info: DatasetInfo, tasks: tuple[str, ...]) -> dict[str, int]:
    try:
        return {task: info.channels(task, get_task(task).channels) for task in tasks}
    except KeyError as error:
        raise DataError(f"{paths.RUN_RECORD} names no classes for {error}, which the network predicts") from None


def _unit(task: str) -> str:
    """Of a prediction, not of the task's metric."""
    kind = get_task(task)
    if kind.channels is None:
        return "class index"
    if kind.channels == 3:
        return "unit vector"
    return "probability" if kind.categorical else kind.unit or task
