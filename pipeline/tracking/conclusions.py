"""Δm of the runs in MLflow, where people compare them: beside the scores, with the sentence that says what it means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow.entities import Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.tracking.mlflow_run import of_weights
from pipeline.tracking.opening import reader

DELTA_M = "delta_m"  # a metric: the value of that seed
CONCLUSION = "conclusion"  # a tag: the sentence for all seeds


@dataclass(frozen=True)
class Compared:
    """A trained run, its Δm in percent, and what can be said of that over all seeds."""

    run: str
    seed: int
    weights_sha256: str
    delta_m: float
    conclusion: str


def log_conclusions(compared: Iterable[Compared]) -> None:
    """Write them to the runs that made the weights: a metric, a tag, and the description unless a person wrote one.

    What stands there already is not written again. Raises TrackingError when the store can't be reached.
    """
    try:
        with reader() as client:
            if client is None:  # nothing was ever logged here
                return
            experiments = [each.experiment_id for each in client.search_experiments()]
            for each in compared:
                condition, order = of_weights(each.run, each.seed, each.weights_sha256), ["attributes.start_time DESC"]
                found = client.search_runs(experiments, condition, order_by=order, max_results=1)
                if not found:
                    warn(f"warning: MLflow's store has no run of {each.run}-{each.seed}, so its Δm is not shown there")
                    continue
                id_, data = found[0].info.run_id, found[0].data
                if data.metrics.get(DELTA_M) != each.delta_m:
                    client.log_metric(id_, DELTA_M, each.delta_m)
                if data.tags.get(CONCLUSION) != each.conclusion:
                    names = [CONCLUSION, MLFLOW_RUN_NOTE] if _is_ours(found[0]) else [CONCLUSION]
                    # At once: a kill between the two would make the description look like a person's.
                    client.log_batch(id_, tags=[RunTag(name, each.conclusion) for name in names])
    except TrackingError as error:
        raise TrackingError(f"{error}. reports/delta.json is written: `dvc repro` brings it there") from None


def _is_ours(run: Run) -> bool:
    """Whether the description is the last conclusion, or none."""
    note = run.data.tags.get(MLFLOW_RUN_NOTE)
    return not note or note == run.data.tags.get(CONCLUSION)
