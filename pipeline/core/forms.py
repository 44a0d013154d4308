"""The form of names that files, archives and MLflow give, checked before they become part of a path or a query.

run.json, metrics files, the store's index and their like travel: by `dvc pull`, by git, by a server. What stages write
there has a form; another value was written by something else, and may lead anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core import names
from pipeline.core.errors import DataError

_SHOWN = 80  # characters of a value that a message holds
_MOST_ID = 255  # bytes of a file name

Form = tuple[Callable[[Any], bool], str]


def is_plain_name(value: object) -> bool:
    """Whether this names something in a folder, and nothing anywhere else."""
    if not isinstance(value, str) or value in ("", ".", "..") or set(value) & set("/\\\0"):
        return False
    return len(value.encode("utf-8", "surrogatepass")) <= _MOST_ID


def is_inner_path(value: object) -> bool:
    """Whether this is empty or a relative path, with `/`, that stays in the folder it begins at."""
    return isinstance(value, str) and (not value or all(is_plain_name(part) for part in value.split("/")))


_SHA256: Form = (
    lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
    "64 hexadecimal digits",
)
_RUN: Form = (names.is_run_name, f"a run's name: {names.RUN_NAME_RULE}")
_SEED: Form = (lambda value: type(value) is int and 0 <= value < 2**32, "a seed: a whole number from 0 on")
_TASK: Form = (names.TASKS.__contains__, f"one of {', '.join(names.TASKS)}")
_NAME: Form = (is_plain_name, "a plain name without folders")
_PATH: Form = (is_inner_path, "a path that stays inside")

# Key -> its form, wherever a file has such a key.
_FORMS: dict[str, Form] = {
    "weights_sha256": _SHA256,
    "input_fingerprint": _SHA256,
    "history_sha256": _SHA256,
    "predictions_sha256": _SHA256,
    "statistics_sha256": _SHA256,
    "sha256": _SHA256,
    "run": _RUN,
    "seed": _SEED,
    "file_name": _NAME,
    "root": _PATH,
}
_REMEDY = "no stage wrote that: get it again from where it came, or remove it and run `dvc repro`"


def check_record(source: Path | str, record: object) -> dict[str, Any]:
    """The mapping `record`, whose names and ids have their form. source: where it is from, for messages.

    Raises DataError for what is no mapping, and with the first value that no stage writes.
    """
    if not isinstance(record, dict):
        raise DataError(f"{source} holds no mapping of keys to values; {_REMEDY}")
    for key, form in _FORMS.items():
        if key in record:
            _check(source, key, record[key], form)
    return record


def check_start(source: Path | str, start: object) -> dict[str, dict[str, str]]:
    """{task: {run, sha256}} of a file in models/start. Raises DataError as `check_record` does."""
    tasks = check_record(source, start)
    for task, origin in tasks.items():
        _check(source, "a task", task, _TASK)
        if set(check_record(f"{source}: {task}", origin)) != {"run", "sha256"}:
            raise DataError(f"{source}: {task} has the keys {', '.join(origin)}, expected run and sha256; {_REMEDY}")
    return tasks


def check_ids(source: Path | str, ids: object) -> list[str]:
    """Ids of samples, which become names of pictures. Raises DataError as `check_record` does."""
    if not isinstance(ids, list):
        raise DataError(f"{source} holds no list of ids; {_REMEDY}")
    for each in ids:
        _check(source, "an id", each, _NAME)
    return ids


def _check(source: Path | str, key: str, value: object, form: Form) -> None:
    fits, expected = form
    if not fits(value):
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise DataError(f"{source}: {key} is {shown}, expected {expected}; {_REMEDY}")
