"""Where runs are recorded: a file beside the project, or what MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.core.paths import project_root


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, else the database at the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def is_server() -> bool:
    """Whether runs go to an MLflow server, not to a database that this process opens itself."""
    return tracking_uri().lower().startswith(("http://", "https://"))


def database() -> Path | None:
    """The file of the local store, or None where runs go to a server."""
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def without_password(text: str) -> str:
    """The text with `***` for the password of every address in it, so that a message or a log may hold it."""
    return re.sub(r"(\w://[^/\s:@]*:)[^/\s]*@", r"\1***@", text)
