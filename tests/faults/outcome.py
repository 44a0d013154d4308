"""All that a project holds when its stages are done, in a form in which two that ended the same are equal."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

# What lies in a project and is compared otherwise, or is not the pipeline's (DVC writes .gitignore files as it likes);
# of files that hold times, that they exist.
APART = (".git", ".dvc/cache", ".dvc/tmp", "mlruns", "archives", "pipeline", "stages")
APART_FILES = ("dvc.lock", "mlflow.db")
APART_NAMES = ("attempts.json", "checkpoint.pt", "before.pt")
# What a JSON file says of when and where; nothing else in a file differs between two runs.
VARYING = (
    *("mlflow_run_id", "started", "seconds", "training_seconds", "resumed", "peak_memory_mb", "host", "environment"),
    *("git.commit", "git.dirty", "dvc.stage", "dvc.experiment"),
)
# Tags of a run that are the same each time; others say where and when.
TAGS = ("run", "seed", "architecture", "tasks", "device", "precision", "weights", "scored_split", "input_fingerprint")
OF_THE_MACHINE = ("system/", "cost/")  # metrics


def outcome(folder: Path) -> dict[str, Any]:
    """{what: value} of files, of MLflow's store, of DVC's cache: equal where two projects ended the same."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(tuple(f"{each}/" for each in APART)) or ignored(path):
            continue
        found[f"file {name}"] = None if name in APART_FILES or path.name in APART_NAMES else digest(path)
    found |= {f"cache {name}": "damaged" for name in damaged_objects(folder)}
    return found | {f"MLflow {name}": value for name, value in mlflow_state(folder / "mlflow.db").items()}


def ignored(path: Path) -> bool:
    return path.name == ".gitignore" or "__pycache__" in path.parts


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as expected, each in a few words."""
    differences = [f"{name} is missing" for name in expected.keys() - found.keys()]
    differences += [f"{name} is left over" for name in found.keys() - expected.keys()]
    differences += [
        f"{name} differs" if name.startswith("file") else f"{name}: {found[name]!r:.150}, not {expected[name]!r:.150}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    return sorted(differences)


def digest(path: Path) -> str:
    """sha256 of a file, of a JSON object without what varies."""
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if isinstance(value, dict):
            content = json.dumps({key: each for key, each in value.items() if key not in VARYING}).encode()
    return hashlib.sha256(content).hexdigest()


def damaged_objects(folder: Path) -> list[str]:
    """Objects of DVC's cache that are not what their name says."""
    objects = (folder / ".dvc/cache/files/md5").glob("??/*")
    named = [path for path in objects if len(path.name.removesuffix(".dir")) == 30]
    return [
        f"{path.parent.name}{path.name}"
        for path in named
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir")
    ]


def mlflow_state(database: Path, experiment: str = "%") -> dict[str, Any]:
    """What the store says of each run by name: every point as often as it is there, params, tags, data, status.

    experiment: the only one that is looked at.
    """
    if not database.exists():
        return {}
    found: dict[str, Any] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        query = (
            "SELECT run_uuid, runs.name, status FROM runs JOIN experiments USING (experiment_id) "
            "WHERE experiments.name LIKE ? ORDER BY start_time"
        )
        runs = store.execute(query, (experiment,)).fetchall()
        for i, (run, name, status) in enumerate(runs):
            number = sum(name == other for _, other, _ in runs[:i])
            of = f"{name} {number + 1}" if number else name  # trained a second time
            points = store.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
            for key in sorted({key for key, *_ in points if not key.startswith(OF_THE_MACHINE)}):
                found[f"{of}: metric {key}"] = sorted(point[1:] for point in points if point[0] == key)
            found[f"{of}: status"] = status
            query = "SELECT key, value FROM {} WHERE run_uuid = ?"
            found[f"{of}: params"] = dict(store.execute(query.format("params"), (run,)))
            tags = dict(store.execute(query.format("tags"), (run,)))
            found[f"{of}: tags"] = {key: tags[key] for key in TAGS if key in tags}
            found[f"{of}: data"] = sorted(data_of(store, run))
            found[f"{of}: artifacts"] = artifacts(database.parent, run)
    return found


def data_of(store: sqlite3.Connection, run: str) -> list[tuple[str, str]]:
    return store.execute(
        "SELECT datasets.name, digest FROM inputs JOIN datasets ON dataset_uuid = source_id WHERE destination_id = ?",
        (run,),
    ).fetchall()


def artifacts(folder: Path, run: str) -> list[str]:
    """Names of a run's files, those of pictures by task and step: one whose upload broke off is there twice."""
    names = (
        path.relative_to(top).as_posix()
        for top in folder.glob(f"*/*/{run}/artifacts")
        for path in top.rglob("*")
        if path.is_file()
    )
    return sorted({re.sub(r"\+timestamp\+\d+\+[0-9a-f-]+", "", name) for name in names})
