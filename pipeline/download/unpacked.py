"""A dataset that lies unpacked in a person's folder: what is in it, and whether that has changed. It is only read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.download.tar_stream import MAX_DEPTH, Member
from pipeline.download.transfer import BLOCK, SourceError, byte_progress

MAX_FILES = 1_000_000  # five times what an archive may hold: a person's folder may have more beside the data set


def walk(folder: Path) -> Iterator[Member]:
    """Every file below `folder` as a member of an archive, by name; links are followed.

    Raises SourceError for what is neither file nor folder, can't be read, or is a link back to a folder above it.
    """
    for name, status in _files(folder):
        yield Member(name, status.st_size, is_folder=False)


def digest(folder: Path) -> str:
    """sha256 over names, sizes and contents of all files, in the order of their names. Raises SourceError."""
    files = list(_files(folder))
    whole = hashlib.sha256()
    with byte_progress(f"check {folder.name}", sum(status.st_size for _, status in files)) as progress:
        for name, status in files:
            whole.update(f"{len(name.encode())} {name} {status.st_size}\n".encode())
            try:
                with (folder / name).open("rb") as file:
                    while block := file.read(BLOCK):
                        whole.update(block)
                        progress.update(len(block))
            except OSError as error:
                raise SourceError(f"{name} in it can't be read: {error.strerror}") from error
    return whole.hexdigest()


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """(name, size, time of change in ns) of every file: quick to take, and different after an edit."""
    return [(name, status.st_size, status.st_mtime_ns) for name, status in _files(folder)]


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path below `folder`, its status) of every file, sorted by path."""
    found: list[tuple[str, os.stat_result]] = []
    _collect(folder, "", (os.path.realpath(folder),), found)
    yield from sorted(found, key=lambda each: each[0])


def _collect(folder: Path, below: str, above: tuple[str, ...], found: list[tuple[str, os.stat_result]]) -> None:
    if len(above) > MAX_DEPTH + 1:
        raise SourceError(f"{below} in it lies {len(above) - 1} folders deep; {MAX_DEPTH} are allowed")
    if len(found) > MAX_FILES:  # as where each of some folders has links to all others
        raise SourceError(f"more than {MAX_FILES:,} files are in it, links to folders followed")
    try:
        for entry in os.scandir(folder / below):
            name, status = f"{below}{entry.name}", entry.stat()
            if stat.S_ISREG(status.st_mode):
                found.append((name, status))
            elif not stat.S_ISDIR(status.st_mode):
                raise SourceError(f"{name} in it is neither a file nor a folder")
            elif (real := os.path.realpath(entry.path)) in above:
                raise SourceError(f"{name} in it is a link to a folder above it: remove that")
            else:
                _collect(folder, f"{name}/", (*above, real), found)
    except OSError as error:
        raise SourceError(f"{error.filename or folder} can't be read: {error.strerror}") from error
