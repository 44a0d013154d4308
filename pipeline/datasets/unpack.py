"""A tar.gz archive, read from end to end: is it whole, harmless, and the one it should be? And its files."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.datasets.transfer import BLOCK, SourceError, byte_progress


def inspect(path: Path, markers: tuple[str, ...], namesakes: tuple[tuple[str, str], ...] = ()) -> dict:
    """Read the archive once: {"root": the folder in it that holds every marker, "unpacked_size": bytes}.

    Markers are patterns of paths below that folder, each of which a file or folder must match. namesakes: (pattern,
    what an archive is that lacks a marker but holds this). Raises SourceError if the archive is damaged, unsafe or
    another one.
    """
    patterns = {pattern: PurePosixPath(pattern).parts for pattern in (*markers, *(pattern for pattern, _ in namesakes))}
    above: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    tops, unpacked = set(), 0
    for _, member in _members(path, "check"):
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
    for tar, member in _members(path, "unpack"):
        tar.extract(member, folder, filter="data")


def _members(path: Path, doing: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members in order, each checked before it is handed out; SourceError if the archive is damaged."""
    try:
        # tarfile's own decompression neither notices a cut end nor compares the checksum; gzip does both.
        with (
            path.open("rb") as file,
            gzip.open(file) as stream,
            byte_progress(f"{doing} {path.name}", path.stat().st_size) as progress,
        ):
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    _refuse_unsafe(member)
                    yield tar, member
                    progress.update(file.tell() - progress.n)
            while stream.read(BLOCK):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise SourceError(f"it is not a whole tar.gz archive ({error})") from error


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
