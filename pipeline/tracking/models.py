"""Trained networks as models in MLflow: logged to the run that trained them, registered under a name with aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.tracking.opening import translate_mlflow_errors  # before mlflow: it sets what that reads on import

# isort: split
import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from pipeline.core.errors import DataError, TrackingError
from pipeline.tracking.address import tracking_uri
from pipeline.tracking.metric_queue import TrackingUnavailable
from pipeline.tracking.queries import TrackedRun

PREFIX = "models:/"
_EXTRA = "extra_files"  # MLflow's folder of files beside a model
_ABOUT = (
    "Networks of one experiment. Alias `<run>-<seed>`: one network; `<run>`: the first of its seeds; `best`: the first "
    "seed of the run with the highest Δm. `python -m stages.predict '{uri}' photo.jpg` uses one."
)


def log_network(
    run: TrackedRun,
    network: nn.Module,
    example: np.ndarray,
    maps: np.ndarray,
    files: Iterable[Path],
    requirements: list[str],
    aliases: Sequence[str],
    description: str,
    tags: Mapping[str, str],
) -> str:
    """Log the network to `run` and register it under its experiment's name; returns models:/<name>/<version>.

    network: (B, 3, H, W) -> (B, C, H, W), one tensor, since MLflow's pyfunc takes no other output. example, maps: an
    image (B, 3, H, W) and what it gives; torch.export would fix a batch of one, so B is two or more. MLflow keeps the
    graph, no pickle. files: kept beside it. description, tags: of the version. The run's status and end stay what they
    are. Raises TrackingError, and DataError for an experiment's name that the registry does not take.
    """
    if bad := [character for character in "/:" if character in run.experiment]:
        raise DataError(
            f"MLflow's registry takes no {' or '.join(bad)} in a name, and `experiment` is {run.experiment!r}: rename "
            "it, or export a folder"
        )
    assert len(example) > 1, "a batch of one would be the only one"
    inputs, outputs = (Schema([TensorSpec(x.dtype, (-1, *x.shape[1:]))]) for x in (example, maps))
    signature = ModelSignature(inputs, outputs)
    try:
        with translate_mlflow_errors():
            mlflow.set_tracking_uri(tracking_uri())
            client = MlflowClient()
            before = client.get_run(run.id).info
            try:
                with mlflow.start_run(run_id=run.id, log_system_metrics=False):
                    logged = mlflow.pytorch.log_model(
                        network,
                        name=run.name,
                        signature=signature,
                        input_example=example,
                        serialization_format="pt2",
                        extra_files=[str(file) for file in files],
                        pip_requirements=requirements,
                        registered_model_name=run.experiment,
                    )
            finally:
                client.set_terminated(run.id, before.status, before.end_time)
            name, version = run.experiment, str(logged.registered_model_version)
            if not client.get_registered_model(name).description:
                client.update_registered_model(name, _ABOUT.format(uri=f"{PREFIX}{name}@{aliases[0]}"))
            client.update_model_version(name, version, description)
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)
            for alias in aliases:
                client.set_registered_model_alias(name, alias, version)
    except TrackingUnavailable as away:
        raise TrackingError(f"{away}; try again later") from None
    return f"{PREFIX}{run.experiment}/{logged.registered_model_version}"


def fetch_network(uri: str, into: Path) -> Path:
    """Copy what `log_network` kept beside the model models:/<name>@<alias>, or /<version>, into a folder `into`.

    Raises TrackingError for a model that the store does not have, DataError for one that nothing was kept beside.
    """
    try:
        with translate_mlflow_errors():
            mlflow.set_tracking_uri(tracking_uri())
            found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=None))
    except TrackingUnavailable as away:
        raise TrackingError(f"{away}; try again later") from None
    if not (found / _EXTRA).is_dir():
        raise DataError(f"{uri} is no network that `python -m stages.export --to mlflow` logged")
    return found / _EXTRA
