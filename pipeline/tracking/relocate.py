"""Artifacts that MLflow's local database looks for where the project no longer is.

MLflow writes absolute paths into it: `<project>/mlruns` for an experiment, with `/<run>/artifacts` after it for a run.
When the folder was moved or copied they lead elsewhere: pictures and checkpoints are gone from the interface, and new
ones go to the old place. MLflow has no call to change them, hence SQL.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import TrackingError
from pipeline.tracking.database_faults import describe, users

_COLUMNS = {"experiments": ("experiment_id", "artifact_location"), "runs": ("run_uuid", "artifact_uri")}
_ARTIFACTS = "mlruns"


@dataclass(frozen=True)
class Row:
    """One path of the database: its table, its row's id, what is written, and the same under the current project."""

    table: str
    id: str | int
    written: str
    old: Path
    new: Path

    @property
    def current(self) -> str:
        """The new path in the form of the old: a file: address, or plain."""
        return self.new.as_uri() if self.written.startswith("file:") else str(self.new)


def moved_rows(database: Path, root: Path) -> dict[Path, list[Row]]:
    """{old folder of artifacts: rows that name it or what is in it}, for those that are not those of `root`."""
    found: dict[Path, list[Row]] = {}
    with _opened(database) as connection:
        for table, (key, column) in _COLUMNS.items():
            for id, written in connection.execute(f"SELECT {key}, {column} FROM {table}"):
                old = _local(written)
                if old is None or _ARTIFACTS not in old.parts or ".." in old.parts:
                    continue
                base = _base(old)
                if base != root / _ARTIFACTS:
                    row = Row(table, id, written, old, root / _ARTIFACTS / old.relative_to(base))
                    found.setdefault(base, []).append(row)
    return found


def rewrite(database: Path, rows: list[Row]) -> Path:
    """Write the new paths in one transaction, and return the copy of the database that was made before.

    Raises TrackingError while a process has the database open.
    """
    if others := users(database):
        raise TrackingError(f"{database} is in use by process {', '.join(map(str, others))}; end it first")
    with _opened(database) as connection:
        backup = _backup(database, connection)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for row in rows:
                key, column = _COLUMNS[row.table]
                change = f"UPDATE {row.table} SET {column} = ? WHERE {key} = ? AND {column} = ?"
                connection.execute(change, (row.current, row.id, row.written))
    return backup


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise TrackingError(describe(database, error)[0]) from None


def _backup(database: Path, connection: sqlite3.Connection) -> Path:
    """A copy beside the database, under a name that is free."""
    names = itertools.chain([""], map(str, itertools.count(1)))
    paths = (database.with_name(f"{database.name}.bak{number}") for number in names)
    path = next(path for path in paths if not path.exists())
    with closing(sqlite3.connect(path)) as copy:
        connection.backup(copy)
    return path


def _local(location: str | None) -> Path | None:
    """The path of a location on this machine; None for one on a server."""
    parts = urlsplit(location or "")
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(location) if location and not parts.scheme and os.path.isabs(location) else None


def _base(path: Path) -> Path:
    """The folder of artifacts that the path is, or lies in: the last of that name."""
    return next(each for each in (path, *path.parents) if each.name == _ARTIFACTS)
