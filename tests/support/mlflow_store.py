"""MLflow's database of a project, empty, as the first stage makes it: MLflow takes most of a second for one."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

import mlflow


def put_empty_store(root: Path) -> None:
    """The database of a project in which nothing was recorded yet."""
    with closing(sqlite3.connect(_made())) as made, closing(sqlite3.connect(root / "mlflow.db")) as own:
        made.backup(own)


@cache
def _made() -> Path:
    """One for this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments(max_results=1)
    return folder / "mlflow.db"
