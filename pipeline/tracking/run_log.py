"""What is written into one MLflow run: metrics, params, tags, files, and how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from pipeline.tracking.opening import (  # before mlflow: it sets what that reads on import
    translate_mlflow_errors,
    uploading,
)

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from PIL import Image

from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.tracking.metric_queue import (
    MetricQueue,
    Point,
    Result,
    TrackingUnavailable,
    retry_while_unavailable,
    within,
)

PICTURES = "panels"  # what MLflow calls the pictures with a slider
EXECUTION = "execution.json"  # the artifact that says when, where and for how long a training ran

_LAST_SECONDS = 10  # of each last try to tell a store how a run ended
_PARAMS_A_BATCH = 100
_METRIC_NAME = 250  # characters
_UNIQUE = re.compile("unique constraint|duplicate (key|entry)", re.IGNORECASE)  # SQLite, PostgreSQL; MySQL
_SYSTEM_SECONDS = 5
_SHOWN = re.compile(rf"{PICTURES}~(\w+)\+step\+(\d+)\+.*\.webp$")  # MLflow writes the small form of a picture last


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """{name: what MLflow calls it}: letters, digits and `_-. :/` in parts that could be folders, 250 at most.

    Names of classes may hold anything. Another character becomes `_`; where that makes two names one, or a name too
    long, a digest of the true name is added. Files and reports keep the true names.
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


def _read(picture: Path) -> Image.Image | None:
    """The picture; None, and a warning, where its file is gone or damaged: no reason to end a training."""
    try:
        with Image.open(picture) as opened:
            return opened.copy()
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow has it
        warn(f"warning: {picture} can't be read ({error}): MLflow lacks this picture")
        return None


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
        self._pictures: deque[tuple[Path, str, int]] = deque()  # to be sent, the oldest first
        self._shown: set[tuple[str, int]] | None = None  # task and step of those that the store has; None: to be asked
        self._queue = MetricQueue(self._send, arrived, points, True, self._watch_again, self._send_pictures)

    @property
    def points(self) -> list[Point]:
        """Every value of every metric so far."""
        return self._queue.points

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log values under names that MLflow takes (`metric_names`)."""
        names = metric_names(values)
        self._queue.add({names[name]: value for name, value in values.items()}, step)

    def scores(self, values: dict[str, float]) -> None:
        """Metrics that have one value and no step, which MLflow shows as bars; what the run says already is left.

        Another value takes the former one's place: MLflow goes by the highest step, then by time.
        """
        said = self._patiently(lambda: self._client.get_run(self.id).data.metrics)
        names, fresh = metric_names(values), {}
        for name, value in ((names[name], value) for name, value in values.items()):
            if name not in said:
                fresh[name] = value
            elif said[name] != value:
                before = self._patiently(partial(self._client.get_metric_history, self.id, name))
                self._queue.add({name: value}, max(point.step for point in before))
        self._queue.add(fresh, 0)

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

        def log_inputs() -> None:
            try:
                self._client.log_inputs(self.id, [link])
            except MlflowException as error:
                if not _UNIQUE.search(str(error)):
                    raise
                # MLflow looks for the dataset, then adds it; another run did in between. Now it is found.
                self._client.log_inputs(self.id, [link])

        self._patiently(log_inputs)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Add a file. A server that keeps it elsewhere may take a while to answer, and is given the time."""
        with uploading():
            self._patiently(lambda: self._client.log_artifact(self.id, str(path), folder))

    def picture(self, path: Path, task: str, step: int) -> None:
        """Add a PNG to the pictures of a task, among which a slider on MLflow's page goes by step.

        It is sent as metrics are, later and once; until then it has to lie there.
        """
        self._pictures.append((path, task, step))

    def json(self, content: Mapping[str, object], name: str) -> None:
        """Keep `content` as the artifact `name`."""
        self._patiently(lambda: self._client.log_dict(self.id, dict(content), name))

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

    def _send_pictures(self) -> None:
        while self._pictures:
            path, task, step = self._pictures[0]
            try:
                self._send_picture(path, task, step)
            except TrackingError as refusal:  # a disk that is full, say: no reason to end a training
                warn(f"warning: MLflow lacks {path.name}: {refusal}")
            self._pictures.popleft()

    @translate_mlflow_errors()
    def _send_picture(self, path: Path, task: str, step: int) -> None:
        if self._shown is None:
            there = self._client.list_artifacts(self.id, "images")
            self._shown = {(found[1], int(found[2])) for each in there if (found := _SHOWN.search(each.path))}
        if (task, step) not in self._shown and (picture := _read(path)) is not None:
            shown, self._shown = self._shown, None  # should the answer be lost, it is asked for again
            with uploading():
                self._client.log_image(self.id, picture, key=f"{PICTURES}/{task}", step=step)
            self._shown = shown | {(task, step)}

    def _watch_again(self) -> None:
        if self._monitor:  # MLflow's monitor gives up with the first call that fails
            self._monitor.finish()
            self.watch_hardware()
