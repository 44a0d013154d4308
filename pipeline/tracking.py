"""MLflow: the only file that knows it. The files that stages write are the truth; MLflow holds a copy to look at.

The store is `mlflow.db` and `mlruns/` at the root of the project, wherever the process runs; the environment variable
MLFLOW_TRACKING_URI sends everything to a server instead.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Whether a store is away is to be known soon; what then happens is said in pipeline/outbox.py.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")

import mlflow  # noqa: E402  (the settings above are read on import)
import requests  # noqa: E402
from filelock import FileLock  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # noqa: E402
from mlflow.tracking.context.registry import resolve_tags  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from pipeline import interruption  # noqa: E402
from pipeline.errors import TrackingError  # noqa: E402
from pipeline.notices import warn  # noqa: E402
from pipeline.outbox import Outbox, Point, Result, StoreAway, patiently  # noqa: E402
from pipeline.paths import project_root  # noqa: E402
from pipeline.provenance import this_process  # noqa: E402

EXECUTION = "execution.json"  # the artifact that says when, where and for how long a training ran

_REACH_SECONDS = 5
_PARAMS_A_BATCH = 100
_METRIC_NAME = 250  # characters
_SYSTEM_SECONDS = 5

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # its failures are those of the store, told once
logging.getLogger("alembic").setLevel(logging.WARNING)


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, else the database at the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def connect(experiment: str) -> str:
    """Reach the store and return the id of `experiment`, which is created when it does not exist.

    Raises TrackingError when the server does not answer or a database has no driver here: stages call this before they
    compute anything.
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
            if (file := database()) and not file.exists():
                _create(file)
            return _experiment(experiment, (project_root() / "mlruns").as_uri())
    except ImportError as error:
        raise _no_driver(error) from None
    except MlflowException as error:
        raise TrackingError(f"MLflow's store {uri} can't be used: {error.message}") from None
    except SQLAlchemyError as error:
        raise TrackingError(
            f"MLflow's store {uri} can't be used: {str(error).splitlines()[0]}. Where MLflow was ended while it made "
            "or upgraded the database, move the file away, or put back a copy."
        ) from None


def _no_driver(error: ImportError) -> TrackingError:
    """SQLAlchemy imports the driver that the address names, or its own choice, when it first needs it."""
    kind = tracking_uri().partition(":")[0]
    return TrackingError(
        f"MLFLOW_TRACKING_URI names a database of the kind {kind}, whose driver is not installed ({error}). Install it "
        "(PostgreSQL: pip install psycopg2-binary; MySQL: pip install PyMySQL), name another with +, such as "
        "postgresql+psycopg2://..., or unset the variable to record in mlflow.db here. Nothing was started."
    )


def _create(file: Path) -> None:
    """The database, whole or not at all: MLflow can't go on with one that a kill has left half made."""
    new = file.with_name(f"{file.name}.new")
    file.parent.mkdir(parents=True, exist_ok=True)
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    mlflow.MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
    if not file.exists():  # or `mlflow ui` has made one meanwhile
        new.rename(file)


def database() -> Path | None:
    """The file of the local store, or None where runs go to a server."""
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def reader() -> Iterator[mlflow.MlflowClient | None]:
    """The store as it is, to look into: None where there is no database yet.

    What it refuses within the block, or is away for, is raised as TrackingError too.
    """
    file = database()
    if file and not file.exists():
        yield None
        return
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _require_reachable(uri)
    try:
        with _told_plainly():
            yield _client(uri)
    except StoreAway as away:
        raise TrackingError(f"{away}; try again later") from None


def _client(uri: str) -> mlflow.MlflowClient:
    try:
        return mlflow.MlflowClient(uri)
    except ImportError as error:
        raise _no_driver(error) from None


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
        try:
            return mlflow.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = mlflow.get_experiment_by_name(name)  # another process was a moment faster
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment '{name}' was deleted; set another name in params.yaml: experiment, or restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`), which brings back runs that were deleted one by "
            "one, too"
        )
    return found.experiment_id


@contextmanager
def _told_plainly() -> Iterator[None]:
    """MLflow's errors as ours: StoreAway for what may go well later, TrackingError for a refusal."""
    try:
        yield
    except MlflowException as error:
        status, reason = error.get_http_status_code(), error.message
    except requests.RequestException as error:  # from the upload of an artifact
        status, reason = error.response.status_code if error.response is not None else 503, str(error)
    except OSError as error:  # from the copy of an artifact
        status, reason = 400, str(error)
    else:
        return
    if status >= 500 or status in (408, 429):
        cause = reason.partition("\n")[0].rpartition(": ")[2].rstrip("\"')")  # the innermost, as Connection refused
        raise StoreAway(f"MLflow's store {tracking_uri()} is away ({cause:.200})")
    raise TrackingError(f"MLflow's store {tracking_uri()} refuses: {reason}")


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """{name: what MLflow calls it}: letters, digits and `_-. :/` in parts that could be folders, 250 at most.

    Names of classes may hold anything. Another character becomes `_`; where that makes two names one, or a name too
    long, a digest of the true name tells them apart. Files and reports keep the true names.
    """
    safe = {name: "/".join(_metric_part(part) for part in name.split("/")) for name in names}
    counts = Counter(safe.values())
    for name, short in safe.items():
        if len(short) > _METRIC_NAME or (counts[short] > 1 and name != short):
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            safe[name] = f"{short[: _METRIC_NAME - 9]}-{digest}"
    return safe


def _metric_part(part: str) -> str:
    safe = re.sub(r"[^\w.\- :]", "_", part)
    return "_" * len(safe) or "_" if safe in ("", ".", "..") else safe


class RunLog:
    """One MLflow run that is being written.

    Metrics go through an outbox. Everything else is tried for a minute while the store is away, and raises
    TrackingError after that, which ends with `remedy`.
    """

    def __init__(
        self,
        run: Run,
        remedy: str,
        resumed: bool = False,
        points: Iterable[Point] = (),
        ends: Callable[[], int | None] = lambda: None,
    ):
        """ends: when the run will be said to have ended, in milliseconds since 1970; None: now."""
        self.id = run.info.run_id
        self._ends = ends
        self._client = mlflow.MlflowClient()
        self._remedy = remedy
        self._known_params = run.data.params
        self._monitor: SystemMetricsMonitor | None = None
        arrived = self._arrived if resumed else set
        near = tracking_uri().startswith("sqlite:")
        self._outbox = Outbox(self._send, arrived, points, background=not near, recovered=self._watch_again)

    @property
    def points(self) -> list[Point]:
        """Every value of every metric so far."""
        return self._outbox.points

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log values under names that MLflow takes (`metric_names`)."""
        names = metric_names(values)
        self._outbox.add({names[name]: value for name, value in values.items()}, step)

    def scores(self, values: dict[str, float], step: int) -> None:
        """Metrics of a stage that may have been killed after it had logged them: what the run says already is left."""
        said = self._patiently(lambda: self._client.get_run(self.id).data.metrics)
        names = metric_names(values)
        self.metrics({name: value for name, value in values.items() if said.get(names[name]) != value}, step)

    def params(self, values: dict[str, object]) -> None:
        """Params that the run does not have yet: they can't change."""
        params = [Param(name, str(value)) for name, value in values.items() if name not in self._known_params]
        for start in range(0, len(params), _PARAMS_A_BATCH):
            batch = params[start : start + _PARAMS_A_BATCH]
            self._patiently(lambda batch=batch: self._client.log_batch(self.id, params=batch))

    def tags(self, values: dict[str, str]) -> None:
        tags = [RunTag(name, value) for name, value in values.items()]
        self._patiently(lambda: self._client.log_batch(self.id, tags=tags))

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Link a split of the prepared data by its digest (MLflow keeps 36 characters of it).

        Give each context a name of its own: of one data set with two contexts, MLflow 3.17 keeps the first in silence.
        """
        data = Dataset(name=name, digest=digest[:36], source_type="dvc", source="data/prepared")
        link = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self._patiently(lambda: self._client.log_inputs(self.id, [link]))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self._patiently(lambda: self._client.log_artifact(self.id, str(path), folder))

    def json(self, content: dict[str, object], name: str) -> None:
        """Keep `content` as the artifact `name`."""
        self._patiently(lambda: self._client.log_dict(self.id, content, name))

    def watch_hardware(self) -> None:
        """Log the use of processors and memory until the run ends, as MLflow's system metrics."""
        self._monitor = SystemMetricsMonitor(self.id, _SYSTEM_SECONDS, resume_logging=True)
        self._monitor.start()

    def finish(self) -> None:
        """Deliver what is still here and end the run as FINISHED."""
        patiently(self._outbox.send, self._remedy)
        patiently(lambda: self.terminate("FINISHED"), self._remedy)

    def abandon(self, status: str) -> None:
        """End the run as `status`, delivering what can be delivered at once."""
        try:
            self._try("sent its last metrics", self._outbox.send)
        finally:  # Ctrl-C, because that takes so long
            self.mark(status)

    def mark(self, status: str) -> None:
        """End the run as `status`, at the first try or not at all. A store that is away is only told."""
        self._try(f"marked {status}", lambda: self.terminate(status))

    def _try(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (StoreAway, TrackingError) as error:
            warn(f"warning: run {self.id} could not be {what}: {error}")

    @_told_plainly()
    def terminate(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.id, status, self._ends())

    def close(self) -> None:
        self._outbox.close()
        if self._monitor:
            self._monitor.finish()

    def _patiently(self, action: Callable[[], Result]) -> Result:
        return patiently(_told_plainly()(action), self._remedy)

    @_told_plainly()
    def _send(self, points: list[Point]) -> None:
        self._client.log_batch(self.id, metrics=[Metric(*point) for point in points])

    @_told_plainly()
    def _arrived(self) -> set[tuple[str, int]]:
        names = [name for name in self._client.get_run(self.id).data.metrics if not name.startswith("system/")]
        return {(name, point.step) for name in names for point in self._client.get_metric_history(self.id, name)}

    def _watch_again(self) -> None:
        if self._monitor:  # MLflow's monitor gives up with the first call that fails
            self._monitor.finish()
            self.watch_hardware()


@contextmanager
def training_run(
    experiment_id: str,
    name: str,
    training_id: str,
    tags: dict[str, str],
    points: Iterable[Point] = (),
    worked: float = 0.0,
) -> Iterator[RunLog]:
    """The run of the training `training_id`, with system metrics: the one that it began before it was killed, if any.

    tags: those of a new run from its first moment on. points: what was logged before; the store is given what it lacks.
    worked: seconds that earlier attempts took. MLflow's pages show end less start, so the run is said to have ended as
    long after its start as it was worked on, without the time in which nothing ran.
    The run ends FINISHED, FAILED on an error, KILLED when interrupted. Raises TrackingError.
    """
    client = mlflow.MlflowClient()

    @_told_plainly()
    def find_or_create() -> Run:
        found = client.search_runs([experiment_id], f"tags.training_id = '{training_id}'")
        if not found:
            own = resolve_tags({"training_id": training_id, **this_process(), **tags})
            return client.create_run(experiment_id, run_name=name, tags=own)
        _take_up(client, found[0])
        return found[0]

    remedy = "Nothing that was computed is lost: once it answers, `dvc repro` goes on from here"
    began = time.time()
    run = patiently(find_or_create, remedy)

    def ends() -> int:
        return run.info.start_time + int(1000 * (worked + time.time() - began))

    log = RunLog(run, remedy, resumed=True, points=points, ends=ends)
    with _ended_properly(log):
        log.watch_hardware()
        yield log


def _take_up(client: mlflow.MlflowClient, run: Run) -> None:
    """Say that a run is being written again, and by which process."""
    client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in this_process().items()])
    client.update_run(run.info.run_id, status="RUNNING")


def of_weights(run: str, seed: int, weights_sha256: str) -> str:
    """The condition by which MLflow finds the runs that made just these weights."""
    tags = {"run": run, "seed": seed, "weights_sha256": weights_sha256}
    return " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())


@contextmanager
def continued_run(experiment_id: str, run: str, seed: int, weights_sha256: str) -> Iterator[RunLog]:
    """Go on writing the run that trained these weights, whose duration stays training's; a new one in `experiment_id`,
    tagged `restored`, where this store has none.

    The latter happens when a result came from DVC's cache or remote to a machine with another store, and when a trained
    run was renamed.
    """
    client = mlflow.MlflowClient()
    condition = of_weights(run, seed, weights_sha256)

    @_told_plainly()
    def find_or_create() -> Run:
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(experiments, condition, order_by=["attributes.start_time DESC"], max_results=1)
        if not found:
            own = {"run": run, "seed": str(seed), "weights_sha256": weights_sha256, "restored": "true"}
            tags = resolve_tags({**own, **this_process()})
            return client.create_run(experiment_id, run_name=f"{run}-{seed}", tags=tags)
        _take_up(client, found[0])
        return found[0]

    remedy = "The files that it should copy are written: once it answers, `dvc repro` does it"
    found = patiently(find_or_create, remedy)
    log = RunLog(found, remedy, ends=lambda: found.info.end_time)
    with _ended_properly(log):
        yield log


@contextmanager
def _ended_properly(log: RunLog) -> Iterator[None]:
    try:
        with interruption.last_words(lambda: log.mark("KILLED")):
            yield
            log.finish()
    except BaseException as error:
        log.abandon("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        log.close()
