"""MLflow's own pages: the address of an experiment's runs, and what their table shows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.tracking.opening import reader

_VIEW = "runs"
_TAG = f"mlflow.sharedViewState.{_VIEW}"  # of an experiment: what `Share` on MLflow's page of runs keeps
# MLflow 3 opens an experiment as one of generative AI, an empty page of traces, unless the address says otherwise.
_RUNS = "{base}/#/experiments/{id}/runs?workflowType=machine_learning&compareRunsMode=TABLE"


def runs_page(base: str, experiment: str) -> str:
    """The page of an experiment's training runs; that of all experiments where there is none of the name, or no more.

    base: the server's address. Raises TrackingError where the store can't be read.
    """
    base = base.rstrip("/")
    with reader() as client:
        found = None if client is None else client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            return base
        page = _RUNS.format(base=base, id=found.experiment_id)
        return f"{page}&viewStateShareKey={_VIEW}" if _TAG in found.tags else page


def show_columns(experiment: str, metrics: Sequence[str]) -> None:
    """Make these metrics the columns of the table at `runs_page`, sorted by the first of them, the largest first.

    Sorted by time, MLflow would show a comparison alone, with its runs folded, and no view can unfold them.

    Raises TrackingError where the store can't be reached.
    """
    columns = [*(f"metrics.`{metric}`" for metric in metrics), "attributes.`Duration`"]
    state = {
        "orderByKey": columns[0],
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "searchFilter": "",
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "groupBy": None,
        "hideEmptyCharts": True,
    }
    value = json.dumps(state)
    with reader() as client:
        found = None if client is None else client.get_experiment_by_name(experiment)
        if client is None or found is None or found.lifecycle_stage != "active":
            return
        if found.tags.get(_TAG) != value:
            client.set_experiment_tag(found.experiment_id, _TAG, value)
