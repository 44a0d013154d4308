"""Δm of the runs in MLflow, where people compare them: beside the scores, with the sentence that says what it means."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from pipeline.core import paths
from pipeline.core.console import warn
from pipeline.core.errors import TrackingError
from pipeline.results.comparison import DELTA_M, Comparison
from pipeline.tracking.descriptions import conclusion_of, describe_run
from pipeline.tracking.mlflow_run import of_weights
from pipeline.tracking.opening import reader

CONCLUSION = "conclusion"  # a tag: the sentence for all seeds
_DESCRIBED = "description_sha256"  # a tag: of the description that was written here, by which a person's is known


@dataclass(frozen=True)
class Compared:
    """A trained network that was compared, and the picture of its predictions: an artifact of its run, if any."""

    run: str
    seed: int
    weights_sha256: str
    picture: str | None = None


def log_conclusions(delta: Comparison, compared: Iterable[Compared], experiment: str) -> list[str]:
    """Write to the runs that made the weights what came of them; returns their ids.

    A metric and a tag for those of a run with a Δm, a description for all unless a person wrote one. What stands there
    already is not written again, and a Δm that no longer holds is taken back. Where several experiments have a run of
    the weights, that of `experiment` is it, else the newest. Raises TrackingError when the store can't be reached.
    """
    ids: list[str] = []
    gains = {
        (row.run, row.seed): row.delta for row in delta.per_seed if row.task == DELTA_M and row.run in delta.delta_m
    }
    with store_of_results() as client:
        if client is None:  # nothing was ever logged here
            return ids
        every = client.search_experiments()
        experiments = [each.experiment_id for each in every]
        own = [each.experiment_id for each in every if each.name == experiment]
        for each in compared:
            condition, order = of_weights(each.run, each.seed, each.weights_sha256), ["attributes.start_time DESC"]
            found = client.search_runs(own, condition, order_by=order, max_results=1) if own else []
            found = found or client.search_runs(experiments, condition, order_by=order, max_results=1)
            if not found:
                warn(f"warning: MLflow's store has no run of {each.run}-{each.seed}, so its Δm is not shown there")
                continue
            ids.append(found[0].info.run_id)
            _log(client, found[0], delta, each, gains.get((each.run, each.seed)))
    return ids


@contextmanager
def store_of_results() -> Iterator[MlflowClient | None]:
    """The store, as `opening.reader` has it, to write into what `compare` has written to its files.

    A TrackingError says that these are there.
    """
    try:
        with reader() as client:
            yield client
    except TrackingError as error:
        raise TrackingError(f"{error}. {paths.DELTA_JSON} is written: `dvc repro` brings it there") from None


def _log(client: MlflowClient, run: Run, delta: Comparison, compared: Compared, gain: float | None) -> None:
    id_, data = run.info.run_id, run.data
    logged, sentence = data.metrics.get(DELTA_M), conclusion_of(delta, compared.run)
    if gain is not None and logged != gain:
        client.log_metric(id_, DELTA_M, gain)
    elif gain is None and logged is not None and not math.isnan(logged):
        client.log_metric(id_, DELTA_M, math.nan)  # a metric can't be deleted
    ours = _is_ours(run)  # by the tag that may be deleted now
    if sentence is None and CONCLUSION in data.tags:
        client.delete_tag(id_, CONCLUSION)
    tags = {} if sentence is None else {CONCLUSION: sentence}
    if ours:
        note = describe_run(delta, compared.run, compared.seed, id_, compared.picture)
        tags |= {MLFLOW_RUN_NOTE: note, _DESCRIBED: _sha256(note)}
    changed = [RunTag(name, value) for name, value in tags.items() if data.tags.get(name) != value]
    if changed:
        client.log_batch(id_, tags=changed)  # at once: a kill between two would make the description look a person's


def _is_ours(run: Run) -> bool:
    """Whether the description is the last that was written here, or none; earlier versions wrote the sentence alone."""
    tags = run.data.tags
    note = tags.get(MLFLOW_RUN_NOTE)
    return not note or note == tags.get(CONCLUSION) or _sha256(note) == tags.get(_DESCRIBED)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
