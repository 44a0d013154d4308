"""An archive, read from end to end: is it whole, harmless, and the one it should be? And its files.

pipeline/download/containers.py opens it: a tar, plain or compressed, a zip, or a folder that is unpacked already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.download.containers import Container, opened
from pipeline.download.gzip_stream import TarDamaged, TarRefused
from pipeline.download.tar_stream import MAX_MEMBERS, Member, shown
from pipeline.download.transfer import SourceError, byte_progress
from pipeline.download.unpacked import walk


def inspect(path: Path, markers: tuple[str, ...], namesakes: tuple[tuple[str, str], ...] = ()) -> dict:
    """Read the archive, or list the folder, once: {"root": what in it holds every marker, "unpacked_size": bytes}.

    Markers are patterns of paths below that folder, each of which a file or folder must match. namesakes: (pattern,
    what an archive is that lacks a marker but holds this). Raises SourceError if the archive is damaged, unsafe or
    another one.
    """
    patterns = {pattern: PurePosixPath(pattern).parts for pattern in (*markers, *(pattern for pattern, _ in namesakes))}
    above: dict[str, set[str]] = {pattern: set() for pattern in patterns}
    tops, folders, unpacked = set(), set(), 0
    with nullcontext((None, walk(path))) if path.is_dir() else _reading(path, "check") as (_, members):
        for member in members:
            parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
            tops.add("/".join(parts[:2]))
            unpacked += member.size
            for depth in range(len(parts) - (not member.is_folder), 0, -1):
                if parts[:depth] in folders:
                    break
                folders.add(parts[:depth])
            if len(folders) > MAX_MEMBERS:
                raise SourceError(f"it holds more than {MAX_MEMBERS:,} folders")
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
    raise SourceError(f"it is another archive: {lacks}, but {_some(tops) or 'nothing'}")


def unpack(path: Path, folder: Path) -> None:
    """Write the archive's files below `folder`, which is empty. Raises SourceError if it is damaged or unsafe; OSError.

    Modes and times are those of new files: what an archive says of them may be absurd, and nothing here reads them.
    """
    made = {folder}
    with _reading(path, "unpack") as (container, members):
        for member in members:
            target = folder / member.name
            above = target if member.is_folder else target.parent
            if above not in made:
                above.mkdir(parents=True, exist_ok=True)
                made.add(above)
            if not member.is_folder:
                with target.open("wb") as file:
                    file.writelines(container.copy())


@contextmanager
def _reading(path: Path, doing: str) -> Iterator[tuple[Container, Iterator[Member]]]:
    """The archive, and its members in order, each checked before it is handed out. Raises SourceError."""
    size = path.stat().st_size
    with path.open("rb") as file, byte_progress(f"{doing} {path.name}", size) as progress:
        kind, container = opened(file, size)

        def members() -> Iterator[Member]:
            for member in container:
                yield member
                progress.update(max(0, file.tell() - progress.n))

        try:
            yield container, members()
        except TarDamaged as error:
            raise SourceError(f"it is not a whole {kind} archive ({error})") from error
        except TarRefused as error:
            raise SourceError(str(error)) from error


def _some(tops: set[str]) -> str:
    """The first of them, as they are; what can't be printed is quoted."""
    return ", ".join(shown(top) if not top.isprintable() else top for top in sorted(tops)[:5])


def _above(parts: tuple[str, ...], wanted: tuple[str, ...]) -> Iterator[str]:
    """The folders in which the path `parts`, or its beginning, matches the pattern `wanted`."""
    for i in range(len(parts) - len(wanted) + 1):
        if all(map(fnmatchcase, parts[i:], wanted)):
            yield "/".join(parts[:i])
