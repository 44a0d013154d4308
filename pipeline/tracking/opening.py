"""Opening MLflow's store: the database beside the project, or what MLFLOW_TRACKING_URI names.

Here stand the settings that MLflow reads when it is imported, so it is imported here before anywhere else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would stand amid what stages.trace prints
# MLflow's client would send a request again whose answer was lost: a second run, values that come twice, an hour's wait
# where Retry-After says so. What happens instead is said in metric_queue.py, which first asks what has arrived.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
_ANSWER_SECONDS = 20
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_ANSWER_SECONDS))

import mlflow  # noqa: E402  (the settings above are read on import)
import requests  # noqa: E402
from filelock import FileLock, Timeout  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from pipeline.core.errors import TrackingError  # noqa: E402
from pipeline.core.paths import project_root  # noqa: E402
from pipeline.tracking.address import database, is_server, tracking_uri  # noqa: E402
from pipeline.tracking.faults import raise_plainly  # noqa: E402
from pipeline.tracking.metric_queue import TrackingBlocked, TrackingUnavailable, retry_while_unavailable  # noqa: E402

_LOCK_SECONDS = 10  # for another process of the project to make the database
_upload = threading.Lock()
_UPLOAD_SECONDS = 60  # of silence after a file was sent: the server may be passing it on to storage of its own

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.system_metrics").setLevel(
    logging.CRITICAL
)  # its failures are those of the store, reported once
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs it raises, too
logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(experiment: str) -> str:
    """Open the store and return the id of `experiment`, which is created when it does not exist.

    Raises TrackingError when the store stays unreachable for a minute, can't be used until somebody fixes something,
    or is a database without a driver here: stages call this before they compute anything.
    """
    mlflow.set_tracking_uri(tracking_uri())
    remedy = "Nothing was started"
    if database() is None:
        remedy += "; correct MLFLOW_TRACKING_URI, or unset it to record in mlflow.db here"
    return retry_while_unavailable(translate_mlflow_errors()(partial(_open, experiment)), remedy)


def _open(experiment: str) -> str:
    if is_server():
        return _experiment(experiment, None)
    _ask_a_database_once()
    # Two processes that create the database at the same moment spoil it for both.
    lock = project_root() / ".runs" / "mlflow.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock, timeout=_LOCK_SECONDS):
        if (file := database()) and not file.exists():
            _create(file)
        return _experiment(experiment, (project_root() / "mlruns").as_uri())


def _ask_a_database_once() -> None:
    """MLflow would ask one that it can't open ten times in 102 s, and print a line each time."""
    from mlflow.store.db import utils  # imports much, of which a server needs nothing

    utils.MAX_RETRY_COUNT = 1


def _no_driver(error: ImportError) -> TrackingError:
    """SQLAlchemy imports the driver that the address names, or its own choice, when it first needs it."""
    if is_server():
        return TrackingError(f"MLflow's server keeps files where this process needs a package to write: {error}")
    kind = tracking_uri().partition(":")[0]
    return TrackingError(
        f"MLFLOW_TRACKING_URI names a database of the kind {kind}, whose driver is not installed ({error}). Install it "
        "(PostgreSQL: pip install psycopg2-binary; MySQL: pip install PyMySQL), name another with +, such as "
        "postgresql+psycopg2://..., or unset the variable to record in mlflow.db here. Nothing was started."
    )


def _create(file: Path) -> None:
    """The database, whole or not at all: MLflow can't use one that a kill has left half made."""
    new = file.with_name(f"{file.name}.new")
    file.parent.mkdir(parents=True, exist_ok=True)
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    mlflow.MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
    if not file.exists():  # or `mlflow ui` has made one meanwhile
        new.rename(file)


@contextmanager
def reader() -> Iterator[mlflow.MlflowClient | None]:
    """The store as it is, to look into: None where there is no database yet.

    What it refuses within the block is raised as TrackingError too, and that it can't be reached.
    """
    file = database()
    if file and not file.exists():
        yield None
        return
    try:
        with translate_mlflow_errors():
            if not is_server():
                _ask_a_database_once()
            yield mlflow.MlflowClient(tracking_uri())
    except TrackingBlocked as blocked:
        raise TrackingError(str(blocked)) from None
    except TrackingUnavailable as away:
        raise TrackingError(f"{away}; try again later") from None


def _experiment(name: str, artifacts: str | None) -> str:
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        try:
            return mlflow.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = mlflow.get_experiment_by_name(name)  # another process was a moment faster
        assert found is not None, name
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment '{name}' was deleted; set another name in params.yaml: experiment, or restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`), which brings back runs that were deleted one by "
            "one, too"
        )
    return found.experiment_id


@contextmanager
def translate_mlflow_errors() -> Iterator[None]:
    """MLflow's errors as ours: see pipeline/tracking/faults.py."""
    try:
        yield
    except ImportError as error:
        raise _no_driver(error) from None
    except Timeout as error:  # an OSError too
        raise TrackingUnavailable(
            f"{error.lock_file} is held by another process, which makes or opens the database"
        ) from None
    except MlflowException as error:
        fault, status, reason = cast(Exception, error), error.get_http_status_code(), error.message
    except requests.RequestException as error:  # from the upload of an artifact
        fault, reason = error, str(error)
        status = error.response.status_code if error.response is not None else 503
    except SQLAlchemyError as error:  # from the opening of a database
        fault, status, reason = error, 400, str(error)
    except OSError as error:  # from the copy of an artifact
        fault, status, reason = error, 400, str(error)
    else:
        return
    raise_plainly(fault, status, reason)


@contextmanager
def uploading() -> Iterator[None]:
    """Within the block MLflow's client waits longer for an answer, unless the user said how long.

    One thread is in it at a time: what it sets holds for all.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    with _upload:
        before = os.environ[name]
        if before == str(_ANSWER_SECONDS):
            os.environ[name] = str(_UPLOAD_SECONDS)
        try:
            yield
        finally:
            os.environ[name] = before
