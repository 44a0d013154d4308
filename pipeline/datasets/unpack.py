"""An archive, read from end to end: is it whole, harmless, and the one it should be? And its files.

pipeline/datasets/containers.py opens it: a tar, plain or compressed, a zip, or a folder that is unpacked already.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.datasets.containers import DAMAGE, Container, opened
from pipeline.datasets.transfer import SourceError, byte_progress
from pipeline.datasets.unpacked import walk


def inspect(path: Path, markers: tuple[str, ...], namesakes: tuple[tuple[str, str], ...] = ()) -> dict:
    """Read the archive, or list the folder, once: {"root": what in it holds every marker, "unpacked_size": bytes}.

    Markers are patterns of paths below that folder, each of which a file or folder must match. namesakes: (pattern,
    what an archive is that lacks a marker but holds this). Raises SourceError if the archive is damaged, unsafe or
    another one.
    """
    patterns = {pattern: PurePosixPath(pattern).parts for pattern in (*markers, *(pattern for pattern, _ in namesakes))}
    above: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    tops, unpacked = set(), 0
    for member in walk(path) if path.is_dir() else (member for _, member in _members(path, "check")):
        parts = PurePosixPath(member.name).parts
        tops.add("/".join(parts[:2]))
        unpacked += member.size
        for pattern, wanted in patterns.items():
            above[pattern].update(_above(parts, wanted))
    roots = set.intersection(*(above[marker] for marker in markers))
    if roots:
        return {"root": min(roots, key=lambda root: (len(root), root)), "unpacked_size": unpacked}
    lacks = " and no ".join(marker for marker in markers if not above[marker])
    lacks = f"no {lacks} inside" if lacks else f"{' and '.join(markers)} are not below one folder"
    for pattern, what in namesakes:
        if above[pattern]:
            raise SourceError(f"it is another archive: {what} (it holds {pattern}; {lacks})")
    raise SourceError(f"it is another archive: {lacks}, but {', '.join(sorted(tops)[:5]) or 'nothing'}")


def unpack(path: Path, folder: Path) -> None:
    """Write the archive's files below `folder`. Raises SourceError if it is damaged or unsafe; OSError, TarError."""
    for container, member in _members(path, "unpack"):
        try:
            container.extract(member, folder)
        except DAMAGE as error:
            raise SourceError(f"{member.name} in it is damaged ({error})") from error


def _members(path: Path, doing: str) -> Iterator[tuple[Container, tarfile.TarInfo]]:
    """The members in order, each checked before it is handed out; SourceError if the archive is damaged."""
    with path.open("rb") as file, byte_progress(f"{doing} {path.name}", path.stat().st_size) as progress:
        kind, container = opened(file)
        try:
            with container:
                for member in container:
                    _refuse_unsafe(member)
                    yield container, member
                    progress.update(file.tell() - progress.n)
        except DAMAGE as error:
            raise SourceError(f"it is not a whole {kind} archive ({error})") from error


def _refuse_unsafe(member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise SourceError(f"unsafe archive: member {member.name!r} would be written outside its folder")
    if not (member.isfile() or member.isdir()):
        kind = "link" if member.issym() or member.islnk() else "device or other special file"
        raise SourceError(f"unsafe archive: member {member.name!r} is a {kind}, not a plain file or folder")


def _above(parts: tuple[str, ...], wanted: tuple[str, ...]) -> Iterator[str]:
    """The folders in which the path `parts`, or its beginning, matches the pattern `wanted`."""
    for i in range(len(parts) - len(wanted) + 1):
        if all(map(fnmatchcase, parts[i:], wanted)):
            yield "/".join(parts[:i])
