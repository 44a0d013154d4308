"""Runs of a search in MLflow: a parent for each study, and in it a child for each trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.tracking.opening import connect, translate_mlflow_errors  # before mlflow: it sets what that reads

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.core.provenance import this_process
from pipeline.tracking.metric_queue import TrackingUnavailable, retry_while_unavailable
from pipeline.tracking.mlflow_run import ended_properly, take_up
from pipeline.tracking.queries import end, running
from pipeline.tracking.run_log import RunLog

STUDY, TRIAL, STATE = "search_study", "search_trial", "search_state"
"""Tags: a study's own id, of parent and children; a trial's number in it; how the trial ended."""

_REMEDY = "Finished trials are kept: once the store works, `python -m stages.search` continues"


@dataclass(frozen=True)
class StudyRuns:
    """Where the trials of one study are recorded. parent: the id of the study's run."""

    experiment: str
    parent: str
    study: str

    @contextmanager
    def trial(self, number: int, name: str, tags: Mapping[str, str]) -> Iterator[RunLog]:
        """The run of a trial; it ends FINISHED, FAILED on an error, KILLED when interrupted. Raises TrackingError."""
        own = {STUDY: self.study, TRIAL: str(number), MLFLOW_PARENT_RUN_ID: self.parent, **tags}
        condition = f"tags.{STUDY} = '{self.study}' and tags.{TRIAL} = '{number}'"
        log = RunLog(_find_or_create(self.experiment, name, condition, own), _REMEDY, resumed=True)
        with ended_properly(log):
            yield log

    def end(self, status: str) -> None:
        """End the study's run, at the first try or not at all. An unreachable store is only reported."""
        client = MlflowClient()
        with _only_reported(f"run {self.parent} could not be marked {status}"):
            client.set_terminated(self.parent, status)

    def close_trials(self, ended: Mapping[int, str]) -> None:
        """End the runs of trials whose workers were killed. ended: {number: status} of trials that are not under way.

        Raises TrackingError.
        """
        for run in running():
            if run.tags.get(STUDY) == self.study and (status := ended.get(int(run.tags.get(TRIAL, -1)))):
                end(run, status)


@contextmanager
def _only_reported(what: str) -> Iterator[None]:
    """Within the block a store that can't be used is only reported."""
    try:
        with translate_mlflow_errors():
            yield
    except (TrackingUnavailable, TrackingError) as error:
        warn(f"warning: {what}: {str(error).partition('. ')[0]}")


def study_runs(experiment: str, name: str, study: str, tags: Mapping[str, str]) -> StudyRuns:
    """The runs of the study whose id is `study`, in the experiment of this name. Raises TrackingError."""
    experiment_id = connect(experiment)
    condition = f"tags.{STUDY} = '{study}' and tags.search_kind = 'study'"
    parent = _find_or_create(experiment_id, name, condition, {STUDY: study, "search_kind": "study", **tags})
    return StudyRuns(experiment_id, parent.info.run_id, study)


def _find_or_create(experiment_id: str, name: str, condition: str, tags: Mapping[str, str]) -> Run:
    """The run that meets the condition: an answer that was lost may have made it already."""
    client = MlflowClient()

    @translate_mlflow_errors()
    def action() -> Run:
        if found := client.search_runs([experiment_id], condition, max_results=1):
            take_up(client, found[0])
            return found[0]
        return client.create_run(experiment_id, run_name=name, tags=resolve_tags({**this_process(), **tags}))

    return retry_while_unavailable(action, _REMEDY)
