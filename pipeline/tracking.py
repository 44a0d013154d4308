"""MLflow: the only file that knows it. The files that stages write are the truth; MLflow holds a copy to look at.

The store is `mlflow.db` and `mlruns/` at the root of the project, wherever the process runs; the environment variable
MLFLOW_TRACKING_URI sends everything to a server instead.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow  # noqa: E402  (the settings above are read on import)
import requests  # noqa: E402
from filelock import FileLock  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

from pipeline.errors import TrackingError  # noqa: E402
from pipeline.paths import project_root  # noqa: E402

_REACH_SECONDS = 5
_METRICS_A_BATCH = 1000
_PARAMS_A_BATCH = 100
_SYSTEM_SECONDS = 5
_FLUSH_SECONDS = 5  # how far curves in the browser lag behind the training

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, else the database at the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def connect(experiment: str) -> str:
    """Reach the store and return the id of `experiment`, which is created when it does not exist.

    Raises TrackingError when the server does not answer: stages call this before they compute anything.
    """
    uri = tracking_uri()
    remote = uri.startswith(("http://", "https://"))
    if remote:
        _require_reachable(uri)
    mlflow.set_tracking_uri(uri)
    try:
        if remote:
            return _experiment(experiment, None)
        # Two processes that create the database at the same moment spoil it for both.
        lock = project_root() / ".runs" / "mlflow.lock"
        lock.parent.mkdir(exist_ok=True)
        with FileLock(lock):
            return _experiment(experiment, (project_root() / "mlruns").as_uri())
    except MlflowException as error:
        raise TrackingError(f"MLflow's store {uri} can't be used: {error.message}") from None


def _require_reachable(uri: str) -> None:
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_REACH_SECONDS)
        problem = None if answer.ok else f"it answers {answer.status_code}"
    except requests.RequestException as error:
        problem = f"no connection ({type(error).__name__})"
    if problem:
        raise TrackingError(
            f"the MLflow server {uri} can't be reached: {problem}. Start it, correct MLFLOW_TRACKING_URI, "
            "or unset that variable to record in mlflow.db here. Nothing was started."
        )


def _experiment(name: str, artifacts: str | None) -> str:
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        return mlflow.create_experiment(name, artifact_location=artifacts)
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment '{name}' was deleted; restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`) or set another name in params.yaml: experiment"
        )
    return found.experiment_id


class RunLog:
    """One MLflow run that is being written. Metrics are buffered and sent in batches, each step once."""

    def __init__(self, run_id: str):
        self.id = run_id
        self._client = mlflow.MlflowClient()
        self._metrics: list[Metric] = []
        self._flushed = time.monotonic()

    def metrics(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._metrics += [Metric(name, float(value), now, step) for name, value in values.items()]
        if len(self._metrics) >= _METRICS_A_BATCH or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        while self._metrics:
            batch, self._metrics = self._metrics[:_METRICS_A_BATCH], self._metrics[_METRICS_A_BATCH:]
            self._client.log_batch(self.id, metrics=batch)

    def params(self, values: dict[str, object]) -> None:
        params = [Param(name, str(value)) for name, value in values.items()]
        for start in range(0, len(params), _PARAMS_A_BATCH):
            self._client.log_batch(self.id, params=params[start : start + _PARAMS_A_BATCH])

    def tags(self, values: dict[str, str]) -> None:
        self._client.log_batch(self.id, tags=[RunTag(name, value) for name, value in values.items()])

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Link the prepared data by its digest (MLflow keeps 36 characters of it)."""
        data = Dataset(name=name, digest=digest[:36], source_type="dvc", source="data/prepared")
        self._client.log_inputs(self.id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.id, str(path), folder)


@contextmanager
def new_run(experiment: str, name: str) -> Iterator[RunLog]:
    """Open a new run, with system metrics. It ends FINISHED, FAILED on an error, KILLED when interrupted."""
    experiment_id = connect(experiment)
    mlflow.set_system_metrics_sampling_interval(_SYSTEM_SECONDS)
    run = mlflow.start_run(experiment_id=experiment_id, run_name=name, log_system_metrics=True)
    with _ended_properly(RunLog(run.info.run_id)) as log:
        yield log


@contextmanager
def continued_run(experiment: str, run_id: str, name: str) -> Iterator[RunLog]:
    """Go on writing the run that training began; a new run where this store does not have it.

    The latter happens when a result came from DVC's cache or remote to a machine with another store.
    """
    experiment_id = connect(experiment)
    try:
        known = mlflow.MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        known = False
    if known:
        run = mlflow.start_run(run_id=run_id, log_system_metrics=False)
    else:
        tags = {"restored_from": run_id}
        run = mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=tags, log_system_metrics=False)
    with _ended_properly(RunLog(run.info.run_id)) as log:
        yield log


@contextmanager
def _ended_properly(log: RunLog) -> Iterator[RunLog]:
    status = RunStatus.FAILED
    try:
        yield log
        log.flush()
        status = RunStatus.FINISHED
    except KeyboardInterrupt:
        status = RunStatus.KILLED
        raise
    except MlflowException as error:
        raise TrackingError(f"MLflow's store {tracking_uri()} stopped taking run {log.id}: {error.message}") from error
    finally:
        try:
            log.flush()
        finally:
            mlflow.end_run(RunStatus.to_string(status))
