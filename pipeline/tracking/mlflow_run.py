"""Runs in MLflow. The files that stages write are the truth; MLflow holds a copy to look at.

The store is `mlflow.db` and `mlruns/` at the root of the project, wherever the process runs; the environment variable
MLFLOW_TRACKING_URI sends everything to a server instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pipeline.tracking.opening import connect as connect  # before mlflow: it sets what that reads on import
from pipeline.tracking.opening import reader as reader
from pipeline.tracking.opening import translate_mlflow_errors, uploading

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

from pipeline.core import shutdown
from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.core.provenance import this_process
from pipeline.tracking.metric_queue import (
    MetricQueue,
    Point,
    Result,
    TrackingUnavailable,
    retry_while_unavailable,
    within,
)

EXECUTION = "execution.json"  # the artifact that says when, where and for how long a training ran

_LAST_SECONDS = 10  # of each last try to tell a store how a run ended
_PARAMS_A_BATCH = 100
_METRIC_NAME = 250  # characters
_SYSTEM_SECONDS = 5


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

    Metrics go through a queue, whose thread waits for a store that is unreachable. All else is tried for a minute,
    and raises TrackingError after that, which ends with `remedy`.
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
        self._client = MlflowClient()
        self._remedy = remedy
        self._known_params = run.data.params
        self._monitor: SystemMetricsMonitor | None = None
        arrived = self._arrived if resumed else set
        self._queue = MetricQueue(self._send, arrived, points, background=True, recovered=self._watch_again)

    @property
    def points(self) -> list[Point]:
        """Every value of every metric so far."""
        return self._queue.points

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log values under names that MLflow takes (`metric_names`)."""
        names = metric_names(values)
        self._queue.add({names[name]: value for name, value in values.items()}, step)

    def scores(self, values: dict[str, float], step: int) -> None:
        """Metrics of a stage that may have been killed after it had logged them: what the run says already is left."""
        said = self._patiently(lambda: self._client.get_run(self.id).data.metrics)
        names = metric_names(values)
        self.metrics({name: value for name, value in values.items() if said.get(names[name]) != value}, step)

    def params(self, values: Mapping[str, object]) -> None:
        """Params that the run does not have yet: they can't change."""
        params = [Param(name, str(value)) for name, value in values.items() if name not in self._known_params]
        for start in range(0, len(params), _PARAMS_A_BATCH):
            batch = params[start : start + _PARAMS_A_BATCH]
            self._patiently(partial(self._client.log_batch, self.id, params=batch))

    def tags(self, values: dict[str, str]) -> None:
        """Set tags; what had a value gets the new one."""
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
        """Add a file. A server that keeps it elsewhere may take a while to answer, and is given the time."""
        with uploading():
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
        retry_while_unavailable(self._queue.send, self._remedy)
        retry_while_unavailable(lambda: self.terminate("FINISHED"), self._remedy)

    def abandon(self, status: str) -> None:
        """End the run as `status`, delivering what can be delivered in some seconds."""
        try:
            self._try("sent its last metrics", self._queue.send)
        finally:  # Ctrl-C, because that takes so long
            self.mark(status)

    def mark(self, status: str) -> None:
        """End the run as `status`, at the first try or not at all. An unreachable store is only reported."""
        self._try(f"marked {status}", lambda: self.terminate(status))

    def _try(self, what: str, action: Callable[[], None]) -> None:
        try:
            within(_LAST_SECONDS, action)
        except (TrackingUnavailable, TrackingError) as error:
            why = str(error).partition(". ")[0]  # the remedy stands elsewhere
            warn(f"warning: run {self.id} could not be {what}: {why}")

    @translate_mlflow_errors()
    def terminate(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.id, status, self._ends())

    def close(self) -> None:
        """Stop the threads; what is not delivered by then is not delivered."""
        self._queue.close()
        if self._monitor:  # waits for the answers to what it asked last
            with contextlib.suppress(TrackingUnavailable):
                within(_LAST_SECONDS / 2, self._monitor.finish)

    def _patiently(self, action: Callable[[], Result]) -> Result:
        return retry_while_unavailable(translate_mlflow_errors()(action), self._remedy)

    @translate_mlflow_errors()
    def _send(self, points: list[Point]) -> None:
        self._client.log_batch(self.id, metrics=[Metric(*point) for point in points])

    @translate_mlflow_errors()
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
    client = MlflowClient()

    unanswered: list[Exception] = []

    @translate_mlflow_errors()
    def find() -> Run | None:
        return _one_of(client, client.search_runs([experiment_id], f"tags.training_id = '{training_id}'"))

    @translate_mlflow_errors()
    def find_or_create() -> Run:
        if found := find():
            _take_up(client, found)
            return found
        own = resolve_tags({"training_id": training_id, **this_process(), **tags})
        try:
            return client.create_run(experiment_id, run_name=name, tags=own)
        except MlflowException as error:
            unanswered.append(error)
            raise

    remedy = "Nothing that was computed is lost: once the store works, `dvc repro` resumes from here"
    began = time.time()
    run = retry_while_unavailable(find_or_create, remedy)

    def ends() -> int:
        return run.info.start_time + int(1000 * (worked + time.time() - began))

    log = RunLog(run, remedy, resumed=True, points=points, ends=ends)
    with _ended_properly(log):
        log.watch_hardware()
        yield log
        if unanswered:  # it may have been done after all, later than it was looked for
            retry_while_unavailable(find, remedy)


def _one_of(client: MlflowClient, found: list[Run]) -> Run | None:
    """The run of a training among those that have its id, of which there is one at most.

    Where the answer to the making of a run came too late, there is another, in which nothing is: that is deleted.
    """
    if not found:
        return None
    fullest = max(found, key=lambda run: len(run.data.metrics) + len(run.data.params))
    for run in found:
        if run is not fullest and not (run.data.metrics or run.data.params):
            client.delete_run(run.info.run_id)
    return fullest


def _take_up(client: MlflowClient, run: Run) -> None:
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
    client = MlflowClient()
    condition = of_weights(run, seed, weights_sha256)

    @translate_mlflow_errors()
    def find_or_create() -> Run:
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(experiments, condition, order_by=["attributes.start_time DESC"], max_results=1)
        if not found:
            own = {"run": run, "seed": str(seed), "weights_sha256": weights_sha256, "restored": "true"}
            tags = resolve_tags({**own, **this_process()})
            return client.create_run(experiment_id, run_name=f"{run}-{seed}", tags=tags)
        _take_up(client, found[0])
        return found[0]

    remedy = "The files that it should copy are written: once the store works, `dvc repro` does it"
    found = retry_while_unavailable(find_or_create, remedy)
    log = RunLog(found, remedy, ends=lambda: found.info.end_time)
    with _ended_properly(log):
        yield log


@contextmanager
def _ended_properly(log: RunLog) -> Iterator[None]:
    try:
        with shutdown.on_forced_exit(lambda: log.mark("KILLED")):
            yield
            log.finish()
    except BaseException as error:
        log.abandon("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        log.close()
