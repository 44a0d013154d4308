"""What a kill of DVC leaves (DVC 3.67.1): some of it stops every later DVC, with a message that names no remedy.

It makes a folder of its run cache before the file in it, and fails over one that is empty or holds a file that is half
written (findings/dvc-fails-over-an-empty-run-cache.sh). It rewrites in place the file that says which paths are in use,
and fails over one that is cut. It writes beside an out before that takes its name. And it tries to clone a file into
its cache by an empty one of the final name: where that stays, because it may not be removed again, DVC takes it for the
whole file.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.core import paths
from pipeline.core.dvc_lock import likely_caches
from pipeline.core.errors import DataError

_PATHS_IN_USE = Path(".dvc/tmp/rwlock")
_CONFIG = {  # where DVC's settings are, and how to get them back: its own message does not name the file
    Path(".dvc/config"): "put back the last commit's with `git checkout .dvc/config`",
    Path(".dvc/config.local"): "remove it, and set what it held again with `dvc config --local`",
}
_TEMPORARY = re.compile(r"\.[\w-]{22}\.tmp")
OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?")  # the name of a file in the cache, after two digits that its folder has
_OF_NOTHING = hashlib.md5(b"", usedforsecurity=False).hexdigest()
_QUIET_SECONDS = 2.0  # a file that DVC copies grows all the time
_TRIES, _PAUSE_SECONDS = 20, 0.05  # while a DVC runs


@dataclass(frozen=True)
class Leftover:
    """A file or folder, what is wrong with it, and what removes it; nothing is lost with it."""

    path: Path
    what: str
    remove: Callable[[], None]


def leftovers() -> Iterator[Leftover]:
    """All that is found."""
    for cache in likely_caches():
        for folder in sorted(cache.glob("runs/*/*/")):
            if _stays(partial(_holds_nothing_whole, folder)):
                yield Leftover(folder, "empty" if _is_empty(folder) else "half written", partial(_remove, folder))
    if _stays(lambda: not _is_mapping(_PATHS_IN_USE)):
        yield Leftover(_PATHS_IN_USE, "cut short", _PATHS_IN_USE.unlink)


def empty_objects() -> Iterator[Path]:
    """Files of DVC's cache that hold nothing, though their names say that they do."""
    for cache in likely_caches():
        for path in sorted(cache.glob("files/md5/??/*")):
            named = OBJECT.fullmatch(path.name) and path.parent.name + path.name != _OF_NOTHING
            if named and _stays(partial(_is_empty_file, path)):
                yield path


def _is_empty_file(path: Path) -> bool:
    return path.stat().st_size == 0


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def _holds_nothing_whole(folder: Path) -> bool:
    return all(_TEMPORARY.fullmatch(path.name) for path in folder.iterdir())


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()
    folder.rmdir()


def temporaries(folders: Iterable[Path]) -> Iterator[Path]:
    """Files in these folders that DVC had not yet given their name; `.dvcignore` keeps them out of hashes."""
    for folder in folders:
        for path in sorted(folder.rglob(".*.tmp")):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and _is_quiet(path):
                yield path


def check() -> None:
    """Raise DataError, with the remedy, for what a kill left or emptied, settings that are no text, a cut dvc.yaml."""
    if paths.GRAPH.is_file() and not paths.GRAPH.read_bytes().endswith(b"\n"):
        raise DataError(
            f"{paths.GRAPH} is cut short: its last line does not end, and DVC would run what is left of it; put back "
            f"the last commit's with `git checkout {paths.GRAPH}`, or end the line"
        )
    for path, remedy in _CONFIG.items():
        if path.is_file() and (fault := _fault_of_settings(path)):
            raise DataError(f"{path} is damaged: {fault}, and DVC fails over it; {remedy}")
    if found := [f"{each.path} is {each.what}" for each in leftovers()]:
        raise DataError(
            f"{', '.join(found)}, as after a kill of DVC, and `dvc repro` fails over it. While no DVC runs: "
            "`python -m stages.doctor --fix` removes it, and nothing is lost"
        )
    if empty := ", ".join(map(str, empty_objects())):
        raise DataError(
            f"{empty}: empty, as where DVC could not write its cache, and taken for whole by DVC; run `python -m "
            "stages.doctor --fix`, which puts the file of this project there that has these bytes, or removes it"
        )


def _fault_of_settings(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return f"it is no text ({error})"
    if '"""' in text or "'''" in text:  # a value of several lines, which may hold anything
        return None
    lines = (line.strip() for line in text.splitlines())
    strange = next((line for line in lines if line and line[0] not in "#[" and "=" not in line), None)
    return f"{strange!r} is neither a section nor a setting" if strange else None


def _stays(wrong: Callable[[], bool]) -> bool:
    """Whether something is wrong for longer than a DVC that runs takes over it."""
    for _ in range(_TRIES):
        try:
            if not wrong():
                return False
        except FileNotFoundError:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def _is_quiet(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return time.time() - max(status.st_mtime, status.st_ctime) > _QUIET_SECONDS
