"""Runs in MLflow. The files that stages write are the truth; MLflow holds a copy to look at.

The store is `mlflow.db` and `mlruns/` at the root of the project, wherever the process runs; the environment variable
MLFLOW_TRACKING_URI sends everything to a server instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pipeline.tracking.opening import connect as connect  # before mlflow: it sets what that reads on import
from pipeline.tracking.opening import reader as reader
from pipeline.tracking.opening import translate_mlflow_errors

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from pipeline.core import shutdown
from pipeline.core.provenance import this_process
from pipeline.tracking.metric_queue import Point, retry_while_unavailable
from pipeline.tracking.run_log import RunLog


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
            take_up(client, found)
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
    with ended_properly(log):
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


def take_up(client: MlflowClient, run: Run) -> None:
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
        take_up(client, found[0])
        return found[0]

    remedy = "The files that it should copy are written: once the store works, `dvc repro` does it"
    found = retry_while_unavailable(find_or_create, remedy)
    log = RunLog(found, remedy, ends=lambda: found.info.end_time)
    with ended_properly(log):
        yield log


@contextmanager
def ended_properly(log: RunLog) -> Iterator[None]:
    """Within the block the run is written: it then ends FINISHED, FAILED on an error, KILLED when interrupted."""
    try:
        with shutdown.on_forced_exit(lambda: log.mark("KILLED")):
            yield
            log.finish()
    except BaseException as error:
        log.abandon("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        log.close()
