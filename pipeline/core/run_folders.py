"""What is kept of each training until its result is safe: a folder under `.runs/train` at the project's root.

    <key>/lock             held while a process trains: two of them would write over each other
    <key>/attempts.json    id of the training, when it began, how often it was begun
    <key>/*.pt             checkpoints: see pipeline/train/resume.py
    <key>/panels-*.png     pictures on their way to MLflow: see pipeline/train/pictures.py
    <key>/result.json      once it has ended: which model and weights it made

The key says what the training is made of, so a checkpoint is never used for anything else. The folder outlives the
stage `train`: until DVC has recorded what it made, a kill would lose that. `evaluate` removes it. No other stage
removes one, however old: a clock may be wrong, and a branch or an experiment may ask for it again. `stages.doctor`
knows which of them params.yaml asks for, and removes others when it is asked to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.core import paths, removal
from pipeline.core.console import warn
from pipeline.core.errors import DataError

_OLD_SECONDS = 14 * 86400  # what nothing has touched for so long is mentioned, and kept
_LOOK_SECONDS = 2.0  # nobody who only looks holds it so long
RECORD, RESULT = "attempts.json", "result.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """What attempts.json says; None where there is none, or a damaged one."""
    try:
        return paths.read_json(folder / RECORD, "training_id", "began", "number")
    except DataError:  # there is none, or a damaged one
        return None


def mention_old(own: Path) -> None:
    """Print how much is kept of other trainings that nothing has touched for long."""
    old, size = 0, 0
    for folder in own.parent.iterdir():
        with suppress(OSError):  # another stage removed it meanwhile
            if folder != own and time.time() - folder.stat().st_mtime > _OLD_SECONDS:
                size += sum(file.stat().st_size for file in folder.iterdir())
                old += 1
    if old:
        print(
            f"{own.parent} keeps {old} other training{'s' if old > 1 else ''} that nothing has touched for "
            f"{_OLD_SECONDS // 86400} days ({size / 1e6:.0f} MB): `python -m stages.doctor` finds those that are no "
            "longer asked for",
            flush=True,
        )


def processes(key: str) -> int:
    """How many processes last worked at a training."""
    return (read_record(paths.training_folder(key)) or {}).get("processes", 1)


def cpu_threads(key: str) -> int:
    """How many threads torch had in each of them."""
    return (read_record(paths.training_folder(key)) or {}).get("cpu_threads", 1)


def delete(key: str) -> None:
    """Remove what is kept of a training, unless a process holds it. Raises DataError for a key that leads elsewhere."""
    kept = paths.training_folder("")
    removal.check_below(paths.training_folder(key), kept)
    with _unless_in_use(paths.training_folder(key), _LOOK_SECONDS) as folder:
        failure = None
        for _ in range(10):
            if folder and folder.exists():
                try:
                    removal.remove(folder, kept)
                except OSError as error:  # another stage that checks the folder may create its lock again
                    failure = error
        if folder and folder.exists():
            warn(f"warning: {folder} is no longer needed, but can't be removed: {failure}")


def is_finished(key: str, model: str, weights_sha256: str) -> bool:
    """Whether a training ended, with these weights for the folder `model`."""
    try:
        result = paths.read_json(paths.training_folder(key) / RESULT)
    except DataError:  # it has not ended, or the note is damaged
        return False
    return result == {"model": model, "weights_sha256": weights_sha256}


def delete_finished(model: str, weights_sha256: str) -> None:
    """Remove what is kept of the training that made these weights for the folder `model`, unless a process holds it."""
    for folder in sorted(paths.training_folder("").glob("*/")):
        if is_finished(folder.name, model, weights_sha256):
            delete(folder.name)


def inactive() -> dict[str, str | None]:
    """{key: id} of the trainings that were begun here and that no process holds; None for a record that is damaged."""
    found = {}
    for each in sorted(paths.training_folder("").glob("*/")):
        with _unless_in_use(each) as folder:
            if folder:
                found[each.name] = (read_record(folder) or {}).get("training_id")
    return found


@contextmanager
def _unless_in_use(folder: Path, timeout: float = 0.0) -> Iterator[Path | None]:
    """The folder, held for the block, or None where there is none or a process holds it, for longer than `timeout`."""
    lock = FileLock(folder / "lock", timeout=timeout)
    try:
        held = folder.exists() and lock.acquire()
    except Timeout:
        held = False
    try:
        yield folder if held else None
    finally:
        if held:
            lock.release()
