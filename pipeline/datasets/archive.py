"""From the name of a dataset's archive to its files: fetch it once, check it, unpack it where it is read.

`data/raw` holds the archive itself and `source.json`, not the thousands of files in it: DVC hashes one file
as fast as the disk reads it. It is unpacked for a reader, into a folder that lives only as long as reading.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline import paths
from pipeline.datasets.transfer import BLOCK, SourceError, byte_progress, download, require_space
from pipeline.errors import DataError

FOLDER_VARIABLE = "PIPELINE_ARCHIVES"
SOURCE_FILE = "source.json"


@dataclass(frozen=True)
class Archive:
    """A gzip-compressed tar archive and where it can be had.

    file_name: its name in `data/raw` and in a person's folder of archives; aliases: other names it has there.
    sources: addresses, tried in order.
    sha256, size (bytes): None where the publisher promises none; what came is recorded in any case.
    marker: a path that must exist inside, below any top folder; it tells the archive from its namesakes.
    """

    file_name: str
    sources: tuple[str, ...]
    sha256: str | None
    size: int | None
    marker: str
    aliases: tuple[str, ...] = ()


def fetch(archive: Archive | None, raw: Path, pause: float = 1.0) -> dict:
    """Put the archive and its `source.json` into `raw`; return what `source.json` says.

    The folder that PIPELINE_ARCHIVES names is looked in first (and only read), then each source is asked in
    turn. Interrupted downloads stay in `<raw>.partial`, outside what DVC clears, and are resumed. None: the
    dataset is generated, there is nothing to fetch. pause: seconds between attempts, at first.
    Raises DataError with every source, what it answered and what can be done by hand.
    """
    raw.mkdir(parents=True, exist_ok=True)
    if archive is None:
        _clear(raw)
        return _record(raw, {"generated": True})
    if kept := _already_there(archive, raw):
        return kept
    _clear(raw)
    partial = raw.with_name(f"{raw.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    answers = []
    for source in (FOLDER_VARIABLE, *archive.sources):
        # One partial file for each source, so that two sources' halves are never joined.
        part = partial / f"{archive.file_name}.{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        try:
            if source == FOLDER_VARIABLE:
                _copy_from_folder(archive, part)
            else:
                download(source, part, archive.size, pause)
            facts = _checked(archive, part)
        except SourceError as error:
            answers.append(f"{source}: {error}")
            if os.environ.get(FOLDER_VARIABLE) or source != FOLDER_VARIABLE:
                print(f"{archive.file_name}: {answers[-1]}", file=sys.stderr)
            continue
        os.replace(part, raw / archive.file_name)
        shutil.rmtree(partial)
        return _record(raw, {"file_name": archive.file_name, "source": source, **facts})
    tried = "\n".join(f"  - {answer}" for answer in answers)
    raise DataError(
        f"{archive.file_name} could not be had. Tried, in this order:\n{tried}\n"
        f"By hand: get the file in any way, put it as {archive.file_name} into a folder, set the environment "
        f"variable {FOLDER_VARIABLE} to that folder and run again."
    )


@contextmanager
def extracted(raw: Path, scratch: Path) -> Iterator[Path]:
    """Yield the folder that a dataset's `splits` and `read` take: unpacked below `scratch`, then removed.

    The archive's own top folder is stepped over. A generated dataset yields `raw` itself. Raises DataError if
    `raw` holds no whole archive, or the archive a member that would leave the folder or is not a plain file.
    """
    source = raw / SOURCE_FILE
    if not source.exists():
        raise DataError(f"{source} is missing: fetch the dataset first, with `dvc repro download`")
    record = paths.read_json(source)
    if record.get("generated"):
        yield raw
        return
    path = raw / record["file_name"]
    if not path.exists() or path.stat().st_size != record["size"]:
        raise DataError(f"{path} is not the file that {source} describes: run `dvc repro -f download`")
    scratch.mkdir(parents=True, exist_ok=True)
    require_space(scratch, record["unpacked_size"], f"unpacking {path.name}")
    with tempfile.TemporaryDirectory(prefix="extracted-", dir=scratch) as folder:
        try:
            for tar, member in _members(path, "unpack"):
                tar.extract(member, folder, filter="data")
        except (SourceError, tarfile.TarError, OSError) as error:
            raise DataError(f"{path} could not be unpacked: {error}") from error
        yield Path(folder) / record["root"]


def _copy_from_folder(archive: Archive, part: Path) -> None:
    value = os.environ.get(FOLDER_VARIABLE)
    if not value:
        raise SourceError("not set")
    # From the project's root: a relative folder means the same one in `dvc exp run --temp`.
    folder = paths.project_root() / Path(value).expanduser()
    if not folder.is_dir():
        raise SourceError(f"{value} is not a folder")
    names = (archive.file_name, *archive.aliases)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise SourceError(f"no file {' or '.join(names)} in {value}")
    require_space(part.parent, found.stat().st_size, f"copying {found.name}")
    try:
        shutil.copyfile(found, part)
    except OSError as error:
        raise SourceError(f"{found.name} can't be copied: {error}") from error


def _checked(archive: Archive, path: Path) -> dict:
    """The file's facts if it is the archive, whole and harmless; SourceError, and the file gone, if not."""
    try:
        size = path.stat().st_size
        if archive.size not in (None, size):
            raise SourceError(f"{size} bytes instead of {archive.size}: cut short, or another file")
        sha256 = file_sha256(path)
        if archive.sha256 not in (None, sha256):
            raise SourceError(f"sha256 is {sha256} instead of {archive.sha256}: damaged, or another file")
        return {"size": size, "sha256": sha256, **_inspect(path, archive.marker)}
    except SourceError:
        path.unlink()
        raise


def _inspect(path: Path, marker: str) -> dict:
    """Read the archive once from end to end: {"root": what lies above `marker`, "unpacked_size": bytes}."""
    roots, tops, unpacked = set(), set(), 0
    for _, member in _members(path, "check"):
        tops.add("/".join(PurePosixPath(member.name).parts[:2]))
        unpacked += member.size
        above, found, _ = f"/{member.name}/".partition(f"/{marker}/")
        if found:
            roots.add(above.strip("/"))
    if not roots:
        holds = ", ".join(sorted(tops)[:5]) or "nothing"
        raise SourceError(f"it is another archive: no {marker} inside, but {holds}")
    return {"root": min(roots, key=lambda root: (len(root), root)), "unpacked_size": unpacked}


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


def _already_there(archive: Archive, raw: Path) -> dict | None:
    """The record of an earlier fetch, if it was of this archive and its file is unchanged."""
    source, path = raw / SOURCE_FILE, raw / archive.file_name
    if not (source.exists() and path.exists()):
        return None
    record = paths.read_json(source)
    wanted = archive.sha256 or record.get("sha256")
    same = record.get("file_name") == archive.file_name and file_sha256(path) == wanted
    return record if same else None


def _clear(raw: Path) -> None:
    """Remove what an earlier fetch left, the record first: without one no file is taken for whole."""
    source = raw / SOURCE_FILE
    if source.exists():
        name = paths.read_json(source).get("file_name")
        source.unlink()
        if name:
            (raw / name).unlink(missing_ok=True)


def _record(raw: Path, record: dict) -> dict:
    paths.write_json(raw / SOURCE_FILE, record)
    return record


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
