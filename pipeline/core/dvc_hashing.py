"""What DVC leaves out when it hashes a folder: an edit of that reruns nothing, so a stage must not read it.

Tried on DVC 3.67.1: it hashes what links to files lead to, and a folder that is itself a link; it passes over links to
folders that lie deeper, and over folders with a `.dvc` of their own, which it takes for another project. (A .dvcignore
in a folder that a stage depends on, it refuses itself.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import DataError

_SHOWN = 5


def check_hashed(folder: Path) -> None:
    """Raise DataError, with each place and the remedy, if something below `folder` is not hashed by DVC."""
    found = list(unhashed(folder))
    if not found:
        return
    lines = [f"  {path}: {why}" for path, why in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more")
    raise DataError(
        f"data.folder {folder} holds what DVC does not hash, so that an edit there would rerun nothing:\n"
        + "\n".join(lines)
        + "\nPut the folder itself there, or one whose files are links: cp -rs <its absolute path> <place>. "
        "data.folder itself may be a link."
    )


def unhashed(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, why) of each folder below `folder` that DVC passes over, sorted; none where `folder` is missing."""
    for place, names, _ in os.walk(folder):
        names.sort()
        for name in list(names):
            path = Path(place, name)
            if path.is_symlink():
                yield path, f"a link to the folder {os.readlink(path)}"
            elif name == ".dvc":
                names.remove(name)
                if Path(place) != Path(folder):
                    yield Path(place), "holds .dvc, so it is another project to DVC: remove that"
