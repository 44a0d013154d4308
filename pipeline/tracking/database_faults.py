"""What SQLite says of MLflow's database, as a message with a remedy that loses nothing.

No remedy deletes a file: a journal holds writes that are not yet in the database, or what takes a half-made one back,
and most of a damaged database can be read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import psutil

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_NO_SPACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def describe(file: Path, error: sqlite3.Error) -> tuple[str, bool]:
    """What is wrong with the database and what to do, and whether waiting may be enough."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the kind, without its finer distinctions
    if code in _LOCKED:
        return f"{file} is locked by {_holders(file)}", True
    if code in _DAMAGED:
        return f"{file} is damaged ({error}). {recovery(file)}", False
    if code in _UNWRITABLE:
        return f"{file} can't be opened and written ({error}): {_access(file)}", False
    if code in _NO_SPACE:
        return f"{file} can't be written ({error}): {_space(file)}", False
    return f"{file} can't be used: {error}", False


def recovery(file: Path) -> str:
    """How to get what is readable out of a damaged database, keeping all of it. By the sqlite3 command."""
    name, kept = file.name, "damaged"
    return (
        "Models, scores and checkpoints are other files, and whole. Keep the database with what lies beside it: "
        f"`cd {file.parent} && mkdir {kept} && mv {name}* {kept}/`. Then put a copy of it back, or bring back what can "
        f"be read: `sqlite3 {kept}/{name} .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 {name}`. Without either, the "
        "next stage begins a new database"
    )


def users(file: Path) -> list[int]:
    """Other processes of this user that have the file open: `mlflow server`, `make ui`, a training."""
    found = []
    for process in psutil.process_iter():
        try:
            opened = {Path(each.path) for each in process.open_files()}
        except psutil.Error:  # it ended meanwhile, or is another user's
            continue
        if file.resolve() in opened and process.pid != os.getpid():
            found.append(process.pid)
    return found


def _holders(file: Path) -> str:
    if numbers := users(file):
        which = f"process {', '.join(map(str, numbers))}"
    else:
        which = "a process of another user or machine, or by this one"
    return f"{which}; end it if it hangs, and leave {file.name}-journal and {file.name}-wal where they are"


def _access(file: Path) -> str:
    if file.is_dir():
        return "it is a folder; move that elsewhere"
    closed = [str(path) for path in (file, file.parent) if path.exists() and not os.access(path, os.W_OK)]
    if closed:
        return f"let this user write: chmod u+w {' '.join(closed)} (or it is a file system mounted for reading)"
    return "look at its owner, at its folder, and whether the file system is mounted for reading"


def _space(file: Path) -> str:
    try:
        free = f"{shutil.disk_usage(file.parent).free / 1e6:.0f} MB are free"
    except OSError as error:
        free = str(error)
    return f"make room on its disk or raise the quota ({free} in {file.parent})"
