"""Archives and folders that a person has already, found by name: in the folder of archives, or from the root."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.core import paths
from pipeline.download import google_drive
from pipeline.download.transfer import SourceError

FOLDER_VARIABLE = "PIPELINE_ARCHIVES"


def in_folder(*names: str, folders: bool = True) -> Path:
    """The file of one of these names in the folder of archives, or the folder, where that may be; else SourceError."""
    folder = _folder()
    if folder is None:
        raise SourceError("not set")
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder")
    found = _first([folder / name for name in names], folders)
    if found is None:
        raise SourceError(f"no file {' or '.join(names)} in {folder}")
    return found


def named_by_person(name: str) -> Path:
    """The file or folder that data.archive names: in the folder of archives, or from the project's root.

    Raises SourceError where there is none.
    """
    places = [paths.project_root() / os.path.expanduser(name)]
    if (folder := _folder()) is not None and Path(name).name == name:
        places.insert(0, folder / name)
    found = _first(places)
    if found is None:
        raise SourceError(f"there is no file or folder {' or '.join(map(str, places))}")
    return found


def local_archive(name: str) -> Path | None:
    """The file that data.archive names; None for an address, or where there is none (now)."""
    if re.match(r"\w+://", name) or google_drive.file_id(name) is not None:
        return None
    try:
        return named_by_person(name)
    except SourceError:
        return None


def _folder() -> Path | None:
    """The person's folder of archives. From the project's root: the same one in `dvc exp run --temp`."""
    value = os.environ.get(FOLDER_VARIABLE)
    return paths.project_root() / os.path.expanduser(value) if value else None


def _first(places: list[Path], folders: bool = True) -> Path | None:
    try:
        return next((place for place in places if place.is_file() or (folders and place.is_dir())), None)
    except OSError as error:  # a folder above it that may not be entered
        raise SourceError(f"it can't be read: {error}") from error
