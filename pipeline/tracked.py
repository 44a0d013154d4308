"""Finding runs in MLflow's store, and ending those whose process is gone. Nothing else of a run is written here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import forms
from pipeline.errors import TrackingError
from pipeline.tracking import reader

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
    def restored_from(self) -> str | None:
        """The run, of another store, whose result this one scored (tracking.continued_run)."""
        return self.tags.get("restored_from")


def find_run(run_id: str) -> TrackedRun | None:
    """The run `run_id`; where the store lacks it, the newest that was restored from it; else None.

    Raises TrackingError when the store can't be reached.
    """
    exactly = _search(f"attributes.run_id = '{run_id}'")
    return next(exactly, None) or next(_search(f"tags.restored_from = '{run_id}'"), None)


def running() -> list[TrackedRun]:
    """All runs of the store that are said to be running. Raises TrackingError."""
    return list(_search("attributes.status = 'RUNNING'"))


def end(run: TrackedRun) -> None:
    """Mark a run as KILLED. Raises TrackingError."""
    with reader() as client:
        client.set_terminated(run.id, "KILLED")


def close_runs(training_ids: Collection[str]) -> None:
    """Mark as KILLED what is said to be running of these trainings, whose processes are gone. Raises TrackingError."""
    if training_ids:
        for run in running():
            if run.tags.get("training_id") in training_ids:
                end(run)


def run_record(run: TrackedRun) -> dict[str, Any] | None:
    """The run.json that training gave to MLflow; None for a run whose training did not end.

    Raises TrackingError, DataError for one that no training wrote.
    """
    source = f"run.json of the MLflow run {run.id}"
    with reader() as client, TemporaryDirectory() as folder:
        found = next((item for item in client.list_artifacts(run.id) if item.path == "run.json"), None)
        if found is None:
            return None
        if (found.file_size or 0) > _MOST_RECORD:
            raise TrackingError(f"{source} has {found.file_size:,} bytes; {_MOST_RECORD:,} are allowed")
        text = Path(client.download_artifacts(run.id, "run.json", folder)).read_text()
    try:
        return forms.check_record(source, json.loads(text))
    except ValueError as error:
        raise TrackingError(f"{source} is damaged: {error}") from None


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
