"""Finding runs in MLflow's store, and ending those whose process is gone. Nothing else of a run is written here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.core import paths
from pipeline.core.errors import DataError, TrackingError
from pipeline.results.run_record import RunRecord
from pipeline.tracking.mlflow_run import of_weights, reader
from pipeline.tracking.run_log import EXECUTION

_MOST_RECORD = 16 << 20  # bytes of run.json; those of this pipeline have some thousand


@dataclass(frozen=True)
class TrackedRun:
    """What the store says of one run; tags without MLflow's own."""

    id: str
    name: str
    experiment: str
    status: str
    tags: dict[str, str] = field(repr=False)

    @property
    def restored(self) -> bool:
        """Whether this run only scored what was trained elsewhere, or under another name (tracking.continued_run)."""
        return self.tags.get("restored") == "true"


def find_run(run_id: str) -> TrackedRun | None:
    """The run `run_id`, if the store has it. Raises TrackingError when the store can't be reached."""
    return next(_search(f"attributes.run_id = '{run_id}'"), None)


def find_result(run: str, seed: int, weights_sha256: str) -> TrackedRun | None:
    """The newest run that made just these weights, if the store has one. Raises TrackingError."""
    return next(_search(of_weights(run, seed, weights_sha256)), None)


def running() -> list[TrackedRun]:
    """All runs of the store that are said to be running. Raises TrackingError."""
    return list(_search("attributes.status = 'RUNNING'"))


def end(run: TrackedRun, status: str = "KILLED") -> None:
    """Mark a run as KILLED, or what else became of it. Raises TrackingError."""
    with reader() as client:
        assert client is not None, "the run came from a database"
        client.set_terminated(run.id, status)


def close_runs(training_ids: Collection[str]) -> None:
    """Mark as KILLED what is said to be running of these trainings, whose processes are gone. Raises TrackingError."""
    if training_ids:
        for run in running():
            if run.tags.get("training_id") in training_ids:
                end(run)


def run_record(run: TrackedRun) -> RunRecord | None:
    """The run.json that training gave to MLflow; None for a run whose training did not end.

    Raises TrackingError, and DataError for one that is damaged or of another version.
    """
    with _artifact(run, paths.RUN_RECORD) as file:
        if file is None:
            return None
        try:
            return RunRecord.read(file)
        except DataError as error:
            fault = str(error).removeprefix(str(file)).partition(";")[0]  # " is damaged ..." or ": run is ..."
            raise DataError(f"run.json of MLflow's run {run.id}{fault}; trace its model or metrics file") from None


def execution_record(run: TrackedRun) -> dict[str, Any]:
    """When, where and for how long it was trained; of one that did not end, and of a damaged one, what its tags say.

    Raises TrackingError.
    """
    with _artifact(run, EXECUTION) as file:
        try:
            content = json.loads(file.read_text()) if file else None
        except ValueError:
            content = None
    return content if isinstance(content, dict) else run.tags


@contextmanager
def _artifact(run: TrackedRun, name: str) -> Iterator[Path | None]:
    """A copy of what the run keeps under `name`, for the block; None where it keeps no such thing.

    Raises TrackingError, too for one that is larger than any that training writes.
    """
    with reader() as client, TemporaryDirectory() as folder:
        assert client is not None, "the run came from a database"
        found = next((item for item in client.list_artifacts(run.id) if item.path == name), None)
        if found and (found.file_size or 0) > _MOST_RECORD:
            raise TrackingError(
                f"{name} of MLflow's run {run.id} has {found.file_size:,} bytes; {_MOST_RECORD:,} may be"
            )
        yield Path(client.download_artifacts(run.id, name, folder)) if found else None


def _search(condition: str) -> Iterator[TrackedRun]:
    """Runs of all experiments, newest first."""
    with reader() as client:
        if client is None:
            return
        experiments = {each.experiment_id: each.name for each in client.search_experiments()}
        order = ["attributes.start_time DESC"]
        found = client.search_runs(list(experiments), condition, order_by=order) if experiments else []
    for run in found:
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        experiment = experiments[run.info.experiment_id]
        yield TrackedRun(run.info.run_id, run.info.run_name, experiment, run.info.status, tags)
