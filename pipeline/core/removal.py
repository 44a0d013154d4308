"""The one way to remove files and folders: only below the folder that is meant.

Names of what is removed come from files too: a `run.json` travels by `dvc pull`, a folder may be a link to elsewhere.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.core.errors import DataError


def remove(path: Path, below: Path) -> None:
    """Remove the file, link or folder `path`, which must lie below the folder `below`; nothing if there is none.

    Of a link, the link goes and what it leads to stays. Raises DataError, and removes nothing, where `path` lies
    elsewhere, as seen through links and `..` above it; OSError where it can't be removed.
    """
    check_below(path, below)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_below(path: Path, below: Path) -> None:
    """Raise DataError unless `path` lies below the folder `below`, as seen through links and `..` above it."""
    place, root = Path(os.path.realpath(path.parent)), Path(os.path.realpath(below))
    if path.name in ("", "..") or not place.is_relative_to(root):
        raise DataError(f"{path} is not below {below}: nothing was removed")
