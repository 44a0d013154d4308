"""MLflow's database as it is before its first experiment, made once: its migrations take a second each time.

That a project makes its own is seen in test_pipeline.py and in tests/tracking.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import mlflow


def put_blank_store(folder: Path) -> None:
    """Let the project in `folder` find a database."""
    (folder / "mlflow.db").write_bytes(_content())


@cache
def _content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
        return path.read_bytes()
