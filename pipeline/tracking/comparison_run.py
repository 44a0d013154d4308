"""A run in MLflow for each state of the comparison: Δm of all, its files, and the runs that were compared below it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.tracking.opening import reader, uploading  # before mlflow: it sets what that reads on import

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from pipeline.core import git, provenance
from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.core.integrity import file_sha256
from pipeline.results.comparison import Gain
from pipeline.tracking.conclusions import store_of_results

NAME = "comparison"
_STATE = "comparison_sha256"  # a tag: of reports/delta.json
_COMPARED = "compared_runs"  # a tag: the ids of the runs, which may be children of a newer comparison by now


def log_comparison(
    experiment: str, delta_json: Path, gains: Mapping[str, Gain], description: str, compared: Iterable[str]
) -> str | None:
    """Write the run of this comparison and put the runs `compared` below it; returns its id, None without a store.

    What was compared before stays below its own comparison, unless it is compared again. The same comparison is
    written once. delta_json: its SHA-256 names the state; runs of another experiment keep their place.
    Raises TrackingError where the store can't be reached.
    """
    compared = list(compared)
    with store_of_results() as client:
        found = None if client is None else client.get_experiment_by_name(experiment)
        if client is None or found is None or found.lifecycle_stage != "active":
            return None
        run = _find(client, found.experiment_id, delta_json) or _create(client, found.experiment_id, delta_json)
        try:
            _write(client, run, delta_json, gains, description, compared)
        except BaseException as error:
            with suppress(Exception):  # what ended it is what counts
                client.set_terminated(run.info.run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        return run.info.run_id


def _write(
    client: MlflowClient, run: Run, delta_json: Path, gains: Mapping[str, Gain], description: str, compared: list[str]
) -> None:
    """What the run of a comparison lacks; that it is finished comes last."""
    id_, tags = run.info.run_id, run.data.tags
    values = _values(gains)
    if {name: run.data.metrics.get(name) for name in values} != values:
        client.log_batch(id_, metrics=[Metric(name, value, run.info.start_time, 0) for name, value in values.items()])
    if not tags.get(MLFLOW_RUN_NOTE):
        client.set_tag(id_, MLFLOW_RUN_NOTE, description)
    if tags.get(_COMPARED) != ",".join(compared):
        client.set_tag(id_, _COMPARED, ",".join(compared))
    _keep(client, id_, [delta_json])
    for each in compared:
        child = client.get_run(each)
        here = child.info.experiment_id == run.info.experiment_id
        if here and child.data.tags.get(MLFLOW_PARENT_RUN_ID) != id_:
            client.set_tag(each, MLFLOW_PARENT_RUN_ID, id_)
    if run.info.status != "FINISHED":
        client.set_terminated(id_)


def keep_report(experiment: str, delta_json: Path, files: Collection[Path]) -> None:
    """Add the files of a report to the run of the comparison that it shows; nothing where there is no store.

    It warns where that can't be done: the report itself is written.
    """
    try:
        with reader() as client:
            if client is None:
                return
            found = client.get_experiment_by_name(experiment)
            run = None if found is None else _find(client, found.experiment_id, delta_json)
            if run is not None:
                _keep(client, run.info.run_id, files)
                return
        why = f"it has no comparison of {delta_json}; `dvc repro -f -s compare report` logs both"
    except TrackingError as error:
        why = str(error)
    warn(f"warning: MLflow does not get the report: {why}")


def _find(client: MlflowClient, experiment_id: str, delta_json: Path) -> Run | None:
    found = client.search_runs([experiment_id], f"tags.{_STATE} = '{file_sha256(delta_json)}'", max_results=1)
    return found[0] if found else None


def _create(client: MlflowClient, experiment_id: str, delta_json: Path) -> Run:
    tags = {_STATE: file_sha256(delta_json), **provenance.this_process(), **git.git_state(), **provenance.dvc_tags()}
    return client.create_run(experiment_id, run_name=NAME, tags=resolve_tags(tags))


def _values(gains: Mapping[str, Gain]) -> dict[str, float]:
    values = {f"delta_m/{run}": gain.mean for run, gain in gains.items()}
    for run, gain in gains.items():
        if gain.interval:
            values |= {f"delta_m_low/{run}": gain.interval.low, f"delta_m_high/{run}": gain.interval.high}
    return values


def _keep(client: MlflowClient, run_id: str, files: Iterable[Path]) -> None:
    with uploading():
        for file in files:
            client.log_artifact(run_id, str(file))
